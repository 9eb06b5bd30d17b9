"""Weights that absorb the multiples of their input: codes recomputed, order, files, quality."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq import Ours
from dgq.errors import DGQError, SettingsError
from dgq.math.multiples import of_weights
from dgq.math.reconstruction import sqnr_db
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import (
    ActivationSettings,
    LayerSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.quantize import quantize_
from tests.forging import State, forge_
from tests.quantized_models import SETTINGS, Calibrated
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

ABSORBING = WeightSettings(8, "minmax", symmetric=True, absorbs=True)
MULTIPLES = ActivationSettings(8, "multiples", max_exponent=4, qkv=False)

Models = Callable[[str], Calibrated]


@given(
    groups=st.integers(1, 3),
    own=st.integers(1, 4),
    out=st.integers(1, 3),
    kernel=st.lists(st.integers(1, 3), max_size=2),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_each_weight_has_the_multiple_of_the_channel_it_meets(
    groups: int, own: int, out: int, kernel: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    multiple = torch.randint(1, 17, (groups * own,), generator=generator)
    shape = (groups * out, own, *kernel)
    found = of_weights(multiple, shape).expand(groups * out, -1).reshape(shape)
    for o in range(groups * out):
        for c in range(own):
            assert bool((found[o, c] == multiple[o // out * own + c]).all())


def absorbed(weight: Tensor, multiple: Tensor) -> WeightQuantizer:
    quantizer = WeightQuantizer(ABSORBING, weight.shape)
    quantizer.absorb_(weight, multiple)
    quantizer.start_learning_(weight)
    quantizer.harden_(None)
    return quantizer


def test_codes_are_those_of_the_multiplied_weight() -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    multiple = torch.tensor([1, 3, 16, 4], dtype=torch.int16)
    quantizer = absorbed(weight, multiple)
    multiplied = weight * multiple.view(1, 4, 1, 1)
    scale = 2 * multiplied.flatten(1).abs().amax(1) / 255
    limit = quantizer.scale.view(-1, 1, 1, 1)
    assert torch.allclose(quantizer.scale, scale, rtol=0.02)
    codes = (multiplied / limit).round().clamp(-128, 127)
    found, _ = quantizer(None)
    assert torch.allclose(found, codes * limit / multiple.view(1, 4, 1, 1), rtol=1e-6)


def test_it_does_not_matter_what_comes_first() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    multiple = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8], dtype=torch.int16)
    before = absorbed(weight, multiple)
    after = WeightQuantizer(ABSORBING, weight.shape)
    after.start_learning_(weight)
    after.harden_(None)
    after.absorb_(weight, multiple)
    assert torch.equal(after.codes, before.codes)
    assert torch.equal(after.scale, before.scale)
    codes = after.codes
    after.absorb_(weight, multiple)
    assert after.codes is codes  # nothing is rounded again


def test_learned_codes_move_on_the_grid_of_the_multiplied_weight() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    multiple = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8], dtype=torch.int16)
    quantizer = absorbed(weight, multiple)
    before, _ = quantizer(None)
    quantizer.start_moving_codes_(weight)
    quantizer.harden_codes_()
    after, _ = quantizer(None)
    assert torch.allclose(after, before, atol=1e-7)  # from nearest, nothing has moved


@torch.no_grad()
def test_a_layer_with_a_weight_in_floating_point_absorbs_nothing() -> None:
    name = "mid_block.resnets.0.conv1"
    layers = {name: LayerSettings(WeightSettings(16))}
    unet, call = micro_unet(), unet_call(micro_unet(), 2, 401.0)
    weight = unet.get_submodule(name).weight.clone()
    settings_ = QuantizationSettings(ABSORBING, MULTIPLES, ScoreSettings(16), layers=layers)
    calibrate_(unet, settings_, (401.0,), [call])
    layer = unet.get_submodule(name)
    assert layer.weight_quantizer is None
    assert torch.equal(layer.weight, weight)


def test_ranges_that_differ_by_channel_cost_less() -> None:
    """One scale for all channels against multiples, both with 8-bit weights in one product."""
    errors = {}
    for name, settings_ in {
        "one scale": SETTINGS["w8a8 symmetric"],
        "absorbed": SETTINGS["absorbed"],
    }.items():
        unet = micro_unet()
        with torch.no_grad():
            uneven_(unet)
            call = unet_call(unet, 2, 401.0, seed=9)
            reference = unet(**call)[0]
            seen = [call | {"timestep": torch.tensor(t)} for t in (801.0, 401.0, 1.0)]
            calibrate_(unet, settings_, calls=seen)
            errors[name] = sqnr_db(unet(**call)[0], reference)
    assert errors["absorbed"] > errors["one scale"] + 3


def uneven_(unet: torch.nn.Module) -> None:
    """Norms that give some channels 20 times the size of others; weights that take it back."""
    for name, module in unet.named_modules():
        if name.endswith(("norm1", "norm2", "norm3")) and hasattr(module, "weight"):
            module.weight.mul_(torch.logspace(-0.6, 0.7, len(module.weight)))


@pytest.mark.parametrize(
    ("weights", "activations", "message"),
    [
        (WeightSettings(8, absorbs=True, symmetric=True), ActivationSettings(8), "multiples"),
        (WeightSettings(8, absorbs=True, symmetric=True), ActivationSettings(16), "multiples"),
        (
            WeightSettings(8, absorbs=True, symmetric=True),
            ActivationSettings(8, "multiples", max_exponent=9),
            "beyond 8",
        ),
    ],
)
def test_what_cannot_be_absorbed_is_refused(
    weights: WeightSettings, activations: ActivationSettings, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        QuantizationSettings(weights, activations)


def test_it_needs_symmetric_weights_without_groups() -> None:
    with pytest.raises(SettingsError, match="symmetric"):
        WeightSettings(8, absorbs=True)
    with pytest.raises(SettingsError, match="symmetric"):
        WeightSettings(6, symmetric=True, absorbs=True, group_size=8, max_exponent=1)


def test_readers_of_one_tensor_absorb_alike() -> None:
    attention = "mid_block.attentions.0.transformer_blocks.0.attn1"
    for names in ([f"{attention}.to_k"], [attention], [attention, f"{attention}.to_q"]):
        layers = {name: LayerSettings(ABSORBING, MULTIPLES) for name in names}
        settings_ = QuantizationSettings(
            WeightSettings(4, symmetric=True), MULTIPLES, ScoreSettings(16), layers=layers
        )
        with pytest.raises(DGQError, match="or none does"):
            quantize_(micro_unet(), settings_, (1.0,), (8, 8))


def test_what_was_learned_of_a_bias_stays() -> None:
    weight, bias = torch.randn(3, 2), torch.tensor([1.0, 2.0, 3.0])
    quantizer = WeightQuantizer(ABSORBING, weight.shape)
    quantizer.start_learning_(weight)
    quantizer.learnable.bias_shift.data += 0.5
    quantizer.harden_(bias)
    quantizer.absorb_(weight, torch.tensor([2, 3], dtype=torch.int16))
    assert torch.equal(quantizer.bias, bias + 0.5)


def test_a_single_channel_has_its_multiple_taken_out_again() -> None:
    weight = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    quantizer = absorbed(weight, torch.tensor([16], dtype=torch.int16))
    found, _ = quantizer(None)
    assert torch.allclose(found, weight, atol=0.02)


def test_a_file_whose_weights_absorbed_something_else_is_refused(
    calibrated_as: Models, tmp_path: Path
) -> None:
    folder = tmp_path / "forged"
    shutil.copytree(calibrated_as("absorbed").folder, folder)

    def edit(state: State) -> None:
        name = next(n for n in state if n.endswith("conv1.multiple"))
        state[name][0] = 3 if int(state[name][0]) != 3 else 2

    forge_(folder, edit_state=edit)
    with pytest.raises(DGQError, match="absorbed other multiples"):
        load_quantized_unet(folder)


def test_a_file_with_impossible_multiples_is_refused(calibrated_as: Models, tmp_path: Path) -> None:
    folder = tmp_path / "forged"
    shutil.copytree(calibrated_as("absorbed").folder, folder)
    forge_(
        folder,
        edit_state=lambda state: (
            [t.fill_(300) for n, t in state.items() if n.endswith("conv1.multiple")] and None
        ),
    )
    with pytest.raises(DGQError, match="whole number from 1 to 256"):
        load_quantized_unet(folder)


def test_ours_absorbs_where_nothing_is_to_spare() -> None:
    assert Ours(8, 8).quantization.weights.absorbs
    assert not Ours(8, 8).measures  # no operand can have more bits than it has
    assert Ours(8, 6, mixed=False).quantization.weights.absorbs
    for recipe in (Ours(4, 8), Ours(8, 4, mixed=False), Ours(8, 16), Ours(8, 8, ranges="live")):
        assert not recipe.quantization.weights.absorbs
