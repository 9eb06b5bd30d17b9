"""Identities of a quantized UNet, and what ``quantize_`` refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from dgq.calibration.learning import layers_of
from dgq.errors import DGQError
from dgq.pipelines.loading import load_unet
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.exponent_quantizer import ExponentQuantizer
from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.streams.paired_streams import PairedStreams
from dgq.targets import execution_order, find_blocks
from dgq.unet.context import context_of, quantization
from dgq.unet.layers import QuantConv2d, QuantizedLayer, QuantLinear, quantized_layers
from dgq.unet.quantize import activation_quantizers, fit_activations_, quantize_, start_observing_
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

FAST = QuantizationSettings(WeightSettings(4, "minmax"))
FLOAT = QuantizationSettings(WeightSettings(16), ActivationSettings(16), ScoreSettings(16))
TIMESTEPS = (801.0, 401.0)


@pytest.fixture(params=["sd_folder", "sdxl_folder"])
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    """The tiny UNets of both structures."""
    folder: Path = request.getfixturevalue(request.param)
    return load_unet(str(folder))


@torch.no_grad()
def test_16_bits_everywhere_equals_stock_exactly(unet: UNet2DConditionModel) -> None:
    call = unet_call(unet, 2, 401.0)
    expected = unet(**call)[0]
    quantize_(unet, FLOAT, TIMESTEPS, (8, 8))
    assert torch.equal(unet(**call)[0], expected)


@torch.no_grad()
def test_switched_off_equals_stock_before_and_after_calibration(
    unet: UNet2DConditionModel,
) -> None:
    call = unet_call(unet, 2, 401.0)
    expected = unet(**call)[0]
    calibrate_(unet, FAST, TIMESTEPS)
    with quantization(unet, weights=False, activations=False):
        torch.testing.assert_close(unet(**call)[0], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(unet(**call)[0], expected, atol=1e-3)


@torch.no_grad()
def test_fresh_and_switched_off_equals_stock(unet: UNet2DConditionModel) -> None:
    call = unet_call(unet, 2, 401.0)
    expected = unet(**call)[0]
    quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    with quantization(unet, weights=False, activations=False):
        torch.testing.assert_close(unet(**call)[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_more_bits_come_closer() -> None:
    errors = []
    for n_bits in (3, 4, 6, 8):
        unet = micro_unet()
        call = unet_call(unet, 2, 801.0)
        expected = unet(**call)[0]
        settings = QuantizationSettings(
            WeightSettings(n_bits, "minmax"), ActivationSettings(n_bits), ScoreSettings(n_bits)
        )
        calibrate_(unet, settings)
        errors.append((unet(**call)[0] - expected).pow(2).mean().item())
    assert errors == sorted(errors, reverse=True)


def test_every_layer_but_the_kept_ones_becomes_quantized(unet: UNet2DConditionModel) -> None:
    before = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    assert list(quantized_layers(unet)) == [n for n in before if n not in ("conv_in", "conv_out")]
    assert type(unet.conv_in) is type(unet.conv_out) is nn.Conv2d
    stock = [m for m in unet.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    assert len(stock) == 2


def test_layers_that_read_one_tensor_share_its_quantizer() -> None:
    unet = micro_unet()
    quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    layers = quantized_layers(unet).items()
    apart = {name.rpartition(".")[2] for name, layer in layers if layer.input_quantizer is None}
    assert apart == {"to_q", "to_k", "to_v"}


@pytest.mark.parametrize(
    ("grouping", "kind"), [("exponents", ExponentQuantizer), ("multiples", MultipleQuantizer)]
)
def test_grouping_chooses_the_quantizers_and_padding_is_known(
    grouping: Any, kind: type[RangeQuantizer]
) -> None:
    unet = micro_unet()
    settings = QuantizationSettings(activations=ActivationSettings(8, grouping))
    quantize_(unet, settings, TIMESTEPS, (8, 8))
    quantizers = activation_quantizers(unet)
    scores = {n: q for n, q in quantizers.items() if n.endswith(".score_quantizer")}
    assert all(isinstance(q, kind) for n, q in quantizers.items() if n not in scores)
    assert all(isinstance(q, ActivationQuantizer) for q in scores.values())
    padded = {
        name: quantizer.padded
        for name, quantizer in quantizers.items()
        if isinstance(quantizer, ExponentQuantizer | MultipleQuantizer)
    }
    for name, layer in quantized_layers(unet).items():
        if layer.input_quantizer is not None:
            needs = isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
            assert padded.pop(f"{name}.input_quantizer") == needs
    assert not any(padded.values())  # what is left belongs to attentions


@torch.no_grad()
def test_q_k_and_v_stay_in_floating_point_where_settings_say_so() -> None:
    unet = micro_unet()
    settings = QuantizationSettings(FAST.weights, ActivationSettings(4, "exponents", qkv=False))
    calibrate_(unet, settings, TIMESTEPS)
    names = {name.rpartition(".")[2] for name in activation_quantizers(unet)}
    assert names == {"input_quantizer", "context_quantizer", "score_quantizer"}
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    x = torch.randn(2, 9, 16)
    inside = attention.query_quantizer, attention.key_quantizer, attention.value_quantizer
    assert all(quantizer(x) is x for quantizer in inside)
    bits = attention.query_bits, attention.key_bits, attention.value_bits
    assert bits == (32, 32, 32)


def test_module_types_do_not_change_in_calibration() -> None:
    unet = micro_unet()
    quantize_(unet, QuantizationSettings(), (801.0, 401.0, 1.0), (8, 8))
    before = [type(m) for m in unet.modules()]
    twin = micro_unet()
    calibrate_(twin, FAST)
    known = (QuantLinear, QuantConv2d)
    after = [type(m) for m in twin.modules() if type(m).__name__ != "RangeObserver"]
    assert after == before
    assert any(issubclass(t, known) for t in after)


def test_the_mode_is_restored_after_an_exception() -> None:
    unet = micro_unet()
    quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    context = context_of(unet)

    def fail() -> None:
        with quantization(unet, weights=False, activations=True, observing=True):
            assert (context.weights, context.activations, context.observing) == (False, True, True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (context.weights, context.activations, context.observing) == (True, True, False)


def test_modes_nest() -> None:
    unet = micro_unet()
    quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    context = context_of(unet)
    with quantization(unet, weights=False, activations=False):
        with quantization(unet, weights=True, activations=False):
            assert (context.weights, context.activations) == (True, False)
        assert (context.weights, context.activations) == (False, False)


def test_quantizing_twice_is_refused() -> None:
    unet = micro_unet()
    quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    with pytest.raises(DGQError, match="quantized already"):
        quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))


def test_a_pattern_without_a_layer_is_refused_and_the_unet_stays_stock() -> None:
    unet = micro_unet()
    with pytest.raises(DGQError, match="'nonsense' matches no layer"):
        quantize_(unet, QuantizationSettings(keep=("conv_in", "nonsense")), TIMESTEPS, (8, 8))
    assert not quantized_layers(unet)


def test_an_attention_that_is_not_computed_is_refused_by_name() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    with pytest.raises(DGQError, match=r"attentions\.0 uses .* does not compute"):
        quantize_(unet, QuantizationSettings(), TIMESTEPS, (8, 8))
    assert not quantized_layers(unet)


def run_through_streams(unet: UNet2DConditionModel, settings: QuantizationSettings) -> None:
    """Calibrate target by target, as ``fit`` does, rounding to nearest."""
    call = unet_call(unet, 2, TIMESTEPS[0])
    quantize_(unet, settings, TIMESTEPS[:1], (8, 8))
    start_observing_(unet)
    found = find_blocks(unet, settings.keep)
    with quantization(unet, weights=False, activations=False):
        order = execution_order(unet, found, call)
    streams = PairedStreams(unet, {name: found[name] for name in order}, [call])
    for name in order:
        streams.advance_reference()
        for layer in layers_of(found[name]):
            assert isinstance(layer, QuantizedLayer)
            layer.start_learning_()
            layer.harden_()
        streams.advance_quantized()
    streams.close()
    fit_activations_(unet)


@pytest.mark.parametrize("kept", ["down_blocks.*", "mid_block.*", "up_blocks.*"])
@torch.no_grad()
def test_blocks_that_are_kept_altogether_stay_in_full_precision(kept: str) -> None:
    unet = micro_unet()
    keep = ("conv_in", "conv_out", "time_embedding.*", "*time_emb_proj", kept)
    run_through_streams(unet, QuantizationSettings(FAST.weights, keep=keep))
    assert not any(name.startswith(kept[:-1]) for name in activation_quantizers(unet))
