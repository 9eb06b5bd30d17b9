"""Quantized UNets in graphs: torch.compile without a break, torch.export, at several steps."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet
from tests.quantized_models import TIMESTEPS, Calibrated, decibels

Models = Callable[[str], Calibrated]
slow = pytest.mark.slow
COMPILED = [
    "loaded exponents",
    *(
        pytest.param(case, marks=slow)
        for case in ("calibrating kmeans", "calibrating exponents", "loaded kmeans", "loaded live")
    ),
]
EXPORTED = [
    "loaded kmeans",
    *(pytest.param(f"{life} exponents", marks=slow) for life in ("calibrating", "loaded")),
    pytest.param("calibrating kmeans", marks=slow),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def unet_of(case: str, calibrated_as: Models) -> tuple[Any, Calibrated]:
    life, _, kind = case.partition(" ")
    found = calibrated_as(kind)
    if life == "calibrating":
        return copy.deepcopy(found.unet), found
    return load_quantized_unet(found.folder), found


@torch.no_grad()
def outputs(unet: nn.Module | Callable[..., Any], found: Calibrated) -> list[Tensor]:
    return [unet(**found.at(t))[0] for t in TIMESTEPS]


@pytest.mark.parametrize("case", COMPILED)
def test_a_compiled_unet_gives_what_a_plain_call_gives(case: str, calibrated_as: Models) -> None:
    unet, found = unet_of(case, calibrated_as)
    expected = outputs(unet, found)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    for plain, output in zip(expected, outputs(compiled, found), strict=True):
        assert decibels(plain, output) > 40 if "loaded exp" in case else torch.equal(plain, output)


@pytest.mark.parametrize("case", EXPORTED)
def test_an_exported_unet_gives_what_a_plain_call_gives(case: str, calibrated_as: Models) -> None:
    unet, found = unet_of(case, calibrated_as)
    expected = outputs(unet, found)
    with torch.no_grad():
        exported = torch.export.export(unet, (), found.at(1.0)).module()
    for plain, output in zip(expected, outputs(exported, found), strict=True):
        assert decibels(plain, output) > 40 if "loaded exp" in case else torch.equal(plain, output)
    assert not torch.equal(expected[0], expected[2])


@slow
@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
def test_integers_in_float32_are_compiled_exactly(calibrated_as: Models) -> None:
    found = calibrated_as("exponents scores")
    unet = load_quantized_unet(found.folder, "integer", torch.float32)
    expected = outputs(unet, found)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    for plain, output in zip(expected, outputs(compiled, found), strict=True):
        assert decibels(plain, output) > 80


@slow
@torch.no_grad()
def test_every_call_of_a_graph_is_the_first_of_an_image(calibrated_as: Models) -> None:
    unet, found = unet_of("loaded residual", calibrated_as)
    expected = [load_quantized_unet(found.folder)(**found.at(t))[0] for t in TIMESTEPS]
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    for plain, output in zip(expected, outputs(compiled, found), strict=True):
        assert decibels(plain, output) > 25


@slow
def test_repeated_blocks_are_compiled_at_the_step_of_the_call(calibrated_as: Models) -> None:
    unet, found = unet_of("loaded kmeans", calibrated_as)
    expected = outputs(unet, found)
    unet.compile_repeated_blocks(fullgraph=True, backend="eager")
    for plain, output in zip(expected, outputs(unet, found), strict=True):
        assert torch.equal(plain, output)


@slow
@torch.no_grad()
def test_a_graph_is_silent_about_uncalibrated_timesteps(calibrated_as: Models) -> None:
    unet, found = unet_of("loaded kmeans", calibrated_as)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*calibrated timestep.*")
        nearest = compiled(**found.at(500.0))[0]
    assert torch.equal(nearest, unet(**found.at(401.0) | {"timestep": torch.tensor(500.0)})[0])
