"""Exported layers compute what the packed layers do, at every step, borders included."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dgq import DGQError, load_quantized_unet
from dgq.export.borders import missing_taps
from dgq.export.conversion import convert_
from dgq.export.layers import CodeLayer, CodesOf
from dgq.inference.channel_input import ChannelInput
from dgq.inference.layers import PackedLayer
from dgq.inference.laying_out import readers_of
from dgq.unet.attention import QuantizedAttention
from dgq.unet.calls import SamplerCall
from dgq.unet.geometry import ConvGeometry
from tests.exported_models import RECIPES, exported_model
from tests.quantized_models import TIMESTEPS, decibels


def representable(quantizer: ChannelInput, image: bool, step: int, seed: int) -> Tensor:
    """An activation of codes' own values: rounding can go one way only."""
    generator = torch.Generator().manual_seed(seed)
    row = step if quantizer.scale.shape[0] > 1 else 0
    shape = (2, 5, 6, quantizer.channels) if image else (2, 4, quantizer.channels)
    codes = torch.randint(0, quantizer.largest + 1, shape, generator=generator)
    x = (codes - quantizer.zero_point[row]) * (quantizer.scale[row] * quantizer.multiple)
    return x.permute(0, 3, 1, 2) if image else x


def pairs(
    packed: UNet2DConditionModel, converted: UNet2DConditionModel
) -> Iterator[tuple[ChannelInput, PackedLayer, nn.Module | None, CodeLayer]]:
    """Each layer in both forms, with the quantizers of its input."""
    for name, owner in packed.named_modules():
        if not isinstance(owner, QuantizedAttention):
            continue
        for quantizer, leaves in readers_of(owner).items():
            leaf = next(n for n, child in owner.named_children() if child is quantizer)
            codes = converted.get_submodule(f"{name}.{leaf}")
            for layer in leaves:
                path = f"{name}.{layer}"
                yield quantizer, packed.get_submodule(path), codes, converted.get_submodule(path)
    for name, layer in packed.named_modules():
        if isinstance(layer, PackedLayer) and layer.input_quantizer is not None:
            yield layer.input_quantizer, layer, None, converted.get_submodule(name)


@pytest.mark.parametrize("name", RECIPES)
@torch.no_grad()
def test_an_exported_layer_equals_the_packed_one(name: str) -> None:
    folder = exported_model(name).folder
    packed, converted = (load_quantized_unet(folder, "float") for _ in range(2))
    what = convert_(converted)
    n_layers = sum(isinstance(m, PackedLayer) for m in packed.modules())
    assert what.int8_layers == n_layers > 20
    assert not what.float_layers
    n_padded = 0
    for i, (quantizer, layer, codes, made) in enumerate(pairs(packed, converted)):
        assert isinstance(made, CodeLayer)
        assert made.weight.dtype == torch.int8
        n_padded += made.taken_back is not None
        for step in range(len(TIMESTEPS)):
            x = representable(quantizer, isinstance(layer.geometry, ConvGeometry), step, i)
            packed.calls.current = SamplerCall(torch.tensor([step]), (8, 8))
            expected = layer(x if codes is None else quantizer(x))
            converted.calls.begin(x, torch.tensor(TIMESTEPS[step]))
            found = made(x if codes is None else codes(x))
            assert decibels(expected, found) > 90
    assert n_padded > 0 or name == "one step"


@torch.no_grad()
def test_codes_are_whole_numbers_of_a_byte_whatever_the_bits() -> None:
    unet = load_quantized_unet(exported_model("w4a6").folder, "float")
    convert_(unet)
    quantizer = next(m for m in unet.modules() if isinstance(m, CodesOf) and m.factor is not None)
    channels = quantizer.factor.numel()
    unet.calls.begin(torch.zeros(1), torch.tensor(TIMESTEPS[0]))
    codes = quantizer(1e3 * torch.randn(2, 3, channels))
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() < codes.max() <= 255
    assert bool((codes.amax((0, 1)) <= 63 * quantizer.factor).all())


@given(
    kernel=st.tuples(*[st.integers(1, 3)] * 2),
    stride=st.tuples(*[st.integers(1, 2)] * 2),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    dilation=st.tuples(*[st.integers(1, 2)] * 2),
)
def test_missing_taps_are_those_that_a_convolution_of_ones_lacks(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    conv = ConvGeometry(1, 1, kernel, stride, padding, dilation, 1)
    x = torch.ones(1, 1, 6, 7)
    taps = torch.eye(kernel[0] * kernel[1]).view(-1, 1, *kernel)
    seen = F.conv2d(x, taps, None, stride, padding, dilation)
    missing = missing_taps(x, seen, conv)
    assert torch.equal(missing, 1 - seen[0].flatten(1).t())


def test_what_no_engine_runs_in_int8_is_refused(calibrated_as: object) -> None:
    refused = {
        "multiples": "quantizes its query",
        "w4a16": "activations in floating",
        "live": "live ranges",
    }
    for name, words in refused.items():
        unet = load_quantized_unet(calibrated_as(name).folder, "float")  # type: ignore[operator]
        with pytest.raises(DGQError, match=words):
            convert_(unet)


@torch.no_grad()
def test_layers_that_share_their_input_with_a_kept_one_stay_in_float() -> None:
    model = exported_model("kept")
    unet = load_quantized_unet(model.folder, "float")
    expected = unet(**model.call)[0]
    what = convert_(unet)
    # Of two attentions in each of four blocks: to_q and to_v of the first, to_v of the second.
    assert what.float_layers == {"reads the same tensor as a kept layer": 4 * 3}
    assert "in floating point (reads the same tensor" in str(what)
    assert decibels(expected, unet(**model.call)[0]) > 40
