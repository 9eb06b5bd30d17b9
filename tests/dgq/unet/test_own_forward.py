"""A forward that other code assigned to a quantized UNet computes at the step of its timestep."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel

from dgq.storage.checkpoint import load_quantized_unet
from tests.quantized_models import Calibrated
from tests.tiny_pipelines import unet_call

Models = Callable[[str], Calibrated]


def assign(unet: Any) -> None:
    """A forward that goes through the blocks itself, as the stock one does."""
    unet.forward = MethodType(UNet2DConditionModel.forward, unet)


@pytest.mark.parametrize("execution", ["auto", "float"])
@pytest.mark.parametrize("name", ["multiples", "kmeans", "pixels"])
@torch.no_grad()
def test_its_layers_know_step_and_size(name: str, execution: Any, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    unet = load_quantized_unet(model.folder, execution, torch.float32)
    calls = [model.at(t) for t in (801.0, 401.0, 1.0)] + [unet_call(unet, 2, 401.0, size=12)]
    expected = [unet(**call)[0] for call in calls]
    assign(unet)
    copied = copy.deepcopy(unet)
    assert all(torch.equal(unet(**c)[0], e) for c, e in zip(calls, expected, strict=True))
    by_position = unet(calls[0]["sample"], 801, calls[0]["encoder_hidden_states"])[0]
    assert torch.equal(by_position, expected[0])
    assert unet.calls.current is None
    assert copied.calls is not unet.calls
    assert torch.equal(copied(**calls[2])[0], expected[2])


@torch.no_grad()
def test_one_that_calls_the_earlier_one_remembers_what_that_remembers(
    calibrated_as: Models,
) -> None:
    model = calibrated_as("residual")
    unet = load_quantized_unet(model.folder, dtype=torch.float32)
    calls = [model.at(t) for t in (801.0, 401.0, 1.0)]
    expected = [unet(**call)[0] for call in calls]
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(unet)
    assert all(torch.equal(prepared(**c)[0], e) for c, e in zip(calls, expected, strict=True))
    assert accelerator.unwrap_model(prepared) is unet
    assert all(torch.equal(unet(**c)[0], e) for c, e in zip(calls, expected, strict=True))
