"""Layouts: the same of equal UNets, another of each change that a compiled graph would not see."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dgq
from dgq.inference.layout import description, layout_of
from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet
from tests.quantized_models import Calibrated

Models = Callable[[str], Calibrated]
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"


def described(value: Any) -> str:
    return repr(description(value, {}))


def test_tensors_are_described_but_for_their_values() -> None:
    tensor = torch.zeros(2, 3)
    assert described(tensor) == described(torch.ones(2, 3))
    others = (tensor.T, tensor[:1], tensor.int(), tensor.to("meta"), nn.Parameter(tensor))
    assert len({described(other) for other in (tensor, *others)}) == 6


def test_sets_are_described_in_one_order() -> None:
    names = [f"name_{i}" for i in range(20)]
    assert described(set(names)) == described({*reversed(names)}) != described(set(names[1:]))


def test_what_is_held_twice_is_told_from_copies() -> None:
    a, b = torch.zeros(2), torch.zeros(2)
    assert described([a, b]) == described([b, a])
    assert described([a, a]) != described([a, b])
    loop: list[Any] = [a]
    loop.append(loop)
    assert described(loop) != described([a, a])


@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
def test_a_layout_is_that_of_layers_for_kernels(calibrated_as: Models) -> None:
    folder = calibrated_as("exponents").folder
    unet = load_quantized_unet(folder, "integer")
    assert unet.layout == layout_of(unet) == load_quantized_unet(folder, "integer").layout != ""
    assert copy.deepcopy(unet).layout == layout_of(copy.deepcopy(unet)) == unet.layout
    other = load_quantized_unet(calibrated_as("exponents a6").folder, "integer")
    assert other.layout not in ("", unet.layout)
    before = unet.layout
    dgq.prepare_(unet, "float")
    assert unet.layout == layout_of(unet) == ""
    dgq.prepare_(unet, "integer")
    assert unet.layout == before
    unet.execution.run_in_float_(unet)
    assert unet.layout == layout_of(unet) == ""
    assert not hasattr(dgq.dequantize(unet), "layout")


def offset(unet: Any) -> None:
    unet.get_submodule(CONV).input_quantizer.offset = 3


def geometry(unet: Any) -> None:
    layer = unet.get_submodule(CONV)
    layer.geometry = replace(layer.geometry, dilation=(2, 2))


def steps(unet: Any) -> None:
    layer = unet.get_submodule(CONV)
    layer.folded_bias = layer.folded_bias[:1]


def weight(unet: Any) -> None:
    weight = unet.get_submodule(TO_Q).kernel_weight
    weight.geometry = replace(weight.geometry, in_channels=4)


def calls(unet: Any) -> None:
    unet.get_submodule(CONV).input_quantizer.calls = copy.deepcopy(unet.calls)


@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
@pytest.mark.parametrize("change", [offset, geometry, steps, weight, calls])
def test_a_layout_tells_apart(change: Callable[[Any], None], calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, "integer")
    change(unet)
    assert layout_of(unet) != unet.layout
