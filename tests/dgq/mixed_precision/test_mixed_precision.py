"""Bits for each layer: what may be chosen, what is chosen, and how well its noise is foretold."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgq import MixDQ, Ours, QuantizationSettings
from dgq.inference.execution import prepare_
from dgq.inference.freeze import freeze_
from dgq.math.exponents import check_budget
from dgq.mixed_precision.measured_rows import measured_rows
from dgq.mixed_precision.mixed_precision import (
    Choice,
    bits_of_weight,
    costs_of,
    integer_choices,
    noise_of,
    units_of,
)
from dgq.mixed_precision.rounding_noise import input_variance
from dgq.mixed_precision.sensitivities import InputSensitivity, Sensitivity, WeightSensitivity
from dgq.quantizers.observer import Ranges
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.recipes.recipe import KEPT
from dgq.settings import ActivationSettings, WeightSettings
from dgq.unet.context import quantization
from dgq.unet.quantize import layers_to_quantize
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

SYMMETRIC = WeightSettings(4, symmetric=True, group_size=8, max_exponent=2)
A8 = ActivationSettings(8, "multiples", max_exponent=0, qkv=False)
TIMESTEPS = (801.0, 401.0, 1.0)


@pytest.fixture(scope="module")
def calls() -> list[dict[str, Any]]:
    """Calls of two rows at three steps."""
    unet = micro_unet()
    return [unet_call(unet, 2, t, seed=i) for i, t in enumerate(TIMESTEPS)]


@pytest.fixture(scope="module")
def chosen(calls: list[dict[str, Any]]) -> QuantizationSettings:
    """What ``Ours`` chooses at W4A6."""
    return Ours(4, 6, group_size=8).settings(micro_unet().requires_grad_(False), calls)


def test_every_choice_is_one_integer_product() -> None:
    choices = integer_choices(SYMMETRIC, A8, range(2, 9), range(2, 9))
    assert len({(c.weights, c.activations) for c in choices}) == len(choices) == 7 * (5 * 3 + 2 + 1)
    for choice in choices:
        weights, inputs = choice.weights, choice.activations
        check_budget(
            *(weights.n_bits, weights.symmetric, weights.max_exponent),
            *(inputs.n_bits, inputs.max_exponent),
        )
        assert weights.has_exponents == (weights.max_exponent > 0)


def two_layers() -> tuple[nn.Module, Sensitivity]:
    """Two layers that read one tensor; the second has more output channels than are estimated."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({"first": nn.Linear(8, 4), "second": nn.Conv2d(8, 48, 1)})
    second = layers["second"].weight
    second.data = second.data[:1].expand(48, 8, 1, 1) * 3
    high = torch.rand(2, 8) + 0.1
    tensor = InputSensitivity(("first", "second"), False, Ranges(-high, high), torch.rand(2, 8))
    weights = {
        "first": WeightSensitivity(torch.rand(4), 100.0),
        "second": WeightSensitivity(torch.full((48,), 0.3), 300.0),
    }
    return layers, Sensitivity({"first": tensor}, weights)


COARSE = Choice(WeightSettings(2, "minmax"), ActivationSettings(4, "multiples", max_exponent=1))
FINE = Choice(WeightSettings(4, "minmax", True, 4, 1), A8)


@pytest.mark.parametrize("noise_left", [1.0, 0.25])
def test_noise_of_layers_is_that_of_their_input_and_of_all_their_weights(noise_left: float) -> None:
    layers, sensitivity = two_layers()
    (unit,) = units_of(sensitivity)
    found = noise_of(layers, sensitivity, unit, [COARSE, FINE, COARSE], noise_left)
    tensor, expected = sensitivity.inputs["first"], []
    for choice in (COARSE, FINE, COARSE):
        variance = input_variance(tensor.ranges, choice.activations, padded=False)
        noise = float((tensor.gain * variance).sum())
        for name, measured in sensitivity.weights.items():
            weight = layers.get_submodule(name).weight.detach()
            quantizer = WeightQuantizer(choice.weights, weight.shape)
            quantizer.start_learning_(weight)
            quantizer.harden_(None)
            errors = (quantizer(None)[0] - weight).square().flatten(1).sum(1)
            noise += noise_left * float((measured.gain * errors).sum())
        expected.append(noise)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_costs_are_bits_in_the_file_and_operations_by_bits() -> None:
    layers, sensitivity = two_layers()
    (unit,) = units_of(sensitivity)
    n_weights, macs = 8 * (4 + 48), 100 + 300
    assert costs_of(layers, sensitivity, unit, [COARSE, FINE]).tolist() == [
        [n_weights * 2, macs * 2 * 4, macs * 4],
        [n_weights * (4 + 8 / 4), macs * 4 * 8, macs * 8],
    ]


def test_the_means_are_not_exceeded(chosen: QuantizationSettings) -> None:
    """Recomputed from the settings: bits of weights, operations by bits, bits of activations."""
    unet = micro_unet()
    names = layers_to_quantize(unet, KEPT)
    macs = counted(unet, names, unet_call(unet, 1, 1.0))
    bits = {n: (chosen.weights_of(n), chosen.activations_of(n).n_bits) for n in names}
    sizes = {n: unet.get_submodule(n).weight.numel() for n in names}
    total = sum(macs.values())
    assert len({(w.n_bits, a) for w, a in bits.values()}) > 3
    stored = sum(sizes[n] * (w.n_bits + w.has_exponents * 8 / 8) for n, (w, _) in bits.items())
    assert stored <= 4 * sum(sizes.values())
    assert sum(macs[n] * w.n_bits * a for n, (w, a) in bits.items()) <= 4 * 6 * total
    assert sum(macs[n] * a for n, (_, a) in bits.items()) <= 6 * total


def counted(unet: nn.Module, names: list[str], call: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-accumulates of each layer."""
    macs: dict[str, int] = {}
    for name in names:
        unet.get_submodule(name).register_forward_hook(
            lambda layer, _args, out, name=name: macs.update(
                {name: out.numel() * layer.weight[0].numel()}
            )
        )
    with torch.no_grad():
        unet(**call)
    return macs


def test_less_noise_than_the_same_bits_everywhere(
    calls: list[dict[str, Any]], chosen: QuantizationSettings
) -> None:
    """Rounded to nearest and everything quantized, on rows that were not measured."""
    other = unet_call(micro_unet(), 8, 401.0, seed=9)
    with torch.no_grad():
        reference = micro_unet()(**other)[0]
    errors = []
    for settings in (chosen, Ours(4, 6, group_size=8, mixed=False).quantization):
        unet = calibrate_(micro_unet(), settings, TIMESTEPS, calls)
        with torch.no_grad(), quantization(unet, weights=True, activations=True):
            errors.append(float((unet(**other)[0] - reference).square().sum()))
    assert errors[0] < 0.7 * errors[1]


def test_a_mixed_unet_multiplies_integers_throughout(
    calls: list[dict[str, Any]], chosen: QuantizationSettings
) -> None:
    unet = calibrate_(micro_unet(), chosen, TIMESTEPS, calls)
    with torch.no_grad(), quantization(unet, weights=True, activations=True):
        expected = unet(**calls[1])[0]
    freeze_(unet, chosen)
    execution = prepare_(unet, "auto", torch.float32)
    if execution.integer_layers == 0:
        pytest.skip("no exact products of bytes on this machine")
    assert execution.integer_layers == len(layers_to_quantize(micro_unet(), KEPT))
    with torch.no_grad():
        found, reference = unet(**calls[1])[0], micro_unet()(**calls[1])[0]
    # Values that lie between two codes may go to the other one: with few bits that is a large step.
    assert float((found - expected).norm()) < 0.5 * float((expected - reference).norm())


def test_without_calls_bits_are_alike() -> None:
    assert Ours(4, 6).settings(micro_unet()).layers == {}
    assert Ours(4, 6, mixed=False).settings(micro_unet(), []).layers == {}
    assert MixDQ(4, 8).settings(micro_unet()).layers == {}


def test_layers_of_an_attention_get_the_same(chosen: QuantizationSettings) -> None:
    owner = "mid_block.attentions.0.transformer_blocks.0.attn2"
    own = chosen.layers[owner]
    for part in "qkv":
        assert chosen.weights_of(f"{owner}.to_{part}") == own.weights
        assert chosen.activations_of(f"{owner}.to_{part}") == own.activations


def test_mixdq_keeps_the_start_token(calls: list[dict[str, Any]]) -> None:
    """What ``to_k`` and ``to_v`` read is the text itself in its first row, codes in the others."""
    settings = MixDQ(8, 8).settings(micro_unet().requires_grad_(False), calls)
    assert {own.weights.n_bits for own in settings.layers.values() if own.weights} <= {2, 4, 8}
    unet = calibrate_(micro_unet(), settings, TIMESTEPS, calls)
    read: dict[str, Tensor] = {}
    owner = "mid_block.attentions.0.transformer_blocks.0.attn2"
    for frozen in (False, True):
        if frozen:
            freeze_(unet, settings)
            execution = prepare_(unet, "auto", torch.float32)
            reasons = execution.float_layers
            assert execution.integer_layers == 0 or reasons["the start token in floating point"] > 0
        hook = unet.get_submodule(f"{owner}.to_k").register_forward_pre_hook(
            lambda _m, args, named: read.update(text=named.get("quantized", args[0])),
            with_kwargs=True,
        )
        with torch.no_grad():
            unet(**calls[0])
        hook.remove()
        text = calls[0]["encoder_hidden_states"]
        assert torch.equal(read["text"][:, 0], text[:, 0])
        assert not torch.equal(read["text"][:, 1:], text[:, 1:])
        assert len(read["text"][:, 1:].unique()) <= 256


def test_measured_rows_are_spread_over_all_calls(calls: list[dict[str, Any]]) -> None:
    rows = measured_rows(calls, 3)
    assert torch.cat([call["timestep"] for call in rows]).tolist() == list(TIMESTEPS)
    assert sum(len(call["sample"]) for call in measured_rows(calls)) == 6


def test_exponents_count_a_byte_for_each_group() -> None:
    assert bits_of_weight(SYMMETRIC) == 5
    assert bits_of_weight(WeightSettings(3)) == 3
