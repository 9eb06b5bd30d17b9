"""Feed-forward blocks whose gate hands codes to the last layer."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import nn

from dgq.inference.execution import prepare_
from dgq.inference.feed_forward import GatedFeedForward, hand_over_floats_
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet
from tests.quantized_models import Calibrated, decibels

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)
Models = Callable[[str], Calibrated]


def blocks_of(unet: nn.Module) -> list[FeedForward]:
    return [module for module in unet.modules() if isinstance(module, FeedForward)]


@pytest.mark.parametrize("name", ["exponents", "multiples", "w8a8 symmetric", "absorbed"])
@torch.no_grad()
def test_the_last_layer_is_given_the_codes_that_it_would_make(
    name: str, calibrated_as: Models
) -> None:
    unet: Any = load_quantized_unet(calibrated_as(name).folder, "integer", torch.float32)
    blocks = blocks_of(unet)
    assert blocks
    unet.calls.current = None
    for block in blocks:
        assert type(block) is GatedFeedForward
        gate, _, last = block.net
        x = torch.randn(2, 5, gate.proj.geometry.in_channels)
        given = gate.proj.gated(x, last.input_quantizer)
        expected = last.input_quantizer.codes(gate(x))
        assert isinstance(given, QuantizedTensor)
        assert given[1:] == expected[1:]
        different = given.codes.int() - expected.codes.int()
        assert int((different != 0).sum()) <= 2  # in the middle between two


@torch.no_grad()
def test_a_unet_with_gates_in_integers_computes_what_it_did(calibrated_as: Models) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    found = unet(**model.call)[0]
    state = unet.state_dict()
    hand_over_floats_(unet)
    assert {type(block) for block in blocks_of(unet)} == {FeedForward}
    assert decibels(unet(**model.call)[0], found) > 35
    assert unet.state_dict().keys() == state.keys()


@torch.no_grad()
def test_blocks_are_stock_ones_in_floating_point(calibrated_as: Models) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    expected = unet(**model.call)[0]
    prepare_(unet, "float")
    assert {type(block) for block in blocks_of(unet)} == {FeedForward}
    prepare_(unet, "integer", torch.float32)
    assert {type(block) for block in blocks_of(unet)} == {GatedFeedForward}
    assert torch.equal(unet(**model.call)[0], expected)


@torch.no_grad()
def test_hooks_see_every_layer_put_out_floating_point(calibrated_as: Models) -> None:
    unet: Any = load_quantized_unet(calibrated_as("multiples").folder, "integer", torch.float32)
    block = blocks_of(unet)[0]
    x = torch.randn(2, 5, block.net[0].proj.geometry.in_channels)
    expected = block(x)
    seen: list[torch.Tensor] = []
    for layer in (block.net[0], block.net[0].proj, block.net[1], block.net[2]):
        handle = layer.register_forward_hook(lambda _, x, output: seen.append(output))
        found = block(x)
        handle.remove()
        assert decibels(expected, found) > 40
    assert len(seen) == 4
    assert all(output.is_floating_point() for output in seen)


@torch.no_grad()
def test_gates_are_in_integers_again_when_what_was_there_is_gone(calibrated_as: Models) -> None:
    """A UNet that was prepared with a hook on it computes without it as any other."""
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.bfloat16)
    expected = unet(**model.call)[0]
    hooks = [block.net[1].register_forward_hook(lambda *_: None) for block in blocks_of(unet)]
    prepare_(unet, "float", torch.bfloat16)
    prepare_(unet, "integer", torch.bfloat16)
    for hook in hooks:
        hook.remove()
    assert {type(block) for block in blocks_of(unet)} == {GatedFeedForward}
    assert torch.equal(unet(**model.call)[0], expected)


@pytest.mark.parametrize("name", ["live", "residual"])
def test_ranges_of_a_sample_need_what_precedes_them(name: str, calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, "integer", torch.float32)
    assert {type(block) for block in blocks_of(unet)} == {FeedForward}


@pytest.mark.parametrize("layer", [0, 2])
@torch.no_grad()
def test_a_layer_that_is_wrapped_is_called(layer: int, calibrated_as: Models) -> None:
    unet: Any = load_quantized_unet(calibrated_as("multiples").folder, "integer", torch.float32)
    block = copy.deepcopy(blocks_of(unet)[0])
    x = torch.randn(2, 5, block.net[0].proj.geometry.in_channels)
    read: list[torch.Tensor] = []

    class Wrapper(nn.Module):
        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            read.append(x)
            output: torch.Tensor = self.base_layer(x)
            return output

    expected = block(x)
    if layer == 0:
        block.net[0].proj = Wrapper(block.net[0].proj)
    else:
        block.net[2] = Wrapper(block.net[2])
    assert decibels(expected, block(x)) > 40
    assert read[0].is_floating_point()
