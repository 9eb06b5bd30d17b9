"""A UNet is the same in both lives: calibrated, frozen, loaded, and in integers."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dgq.errors import DGQError
from dgq.inference.execution import prepare_
from dgq.inference.freeze import freeze_
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import PackedLayer
from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet, packed_state, save_quantized
from dgq.storage.model_files import WEIGHTS_FILE
from dgq.unet.quantize import quantize_
from tests.quantized_models import INTEGER, SETTINGS, TIMESTEPS, Calibrated, decibels, description
from tests.tiny_pipelines import calibrate_, micro_unet

Models = Callable[[str], Calibrated]
exact = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_loaded_in_floating_point_equals_the_calibrated_one_bit_for_bit(
    name: str, calibrated_as: Models
) -> None:
    model = calibrated_as(name)
    loaded = load_quantized_unet(model.folder, "float")
    assert torch.equal(loaded(**model.call)[0], model.output)
    steps = model.call | {"timestep": torch.tensor([801.0, 1.0])}
    assert torch.equal(loaded(**steps)[0], model.unet(**steps)[0])


@pytest.mark.parametrize("name", ["kmeans affine", "exponents"])
def test_words_are_told_from_pixels(name: str, calibrated_as: Models) -> None:
    """Words do not move when an image is larger than the calibrated ones."""
    model = calibrated_as(name)
    for unet in (model.unet, load_quantized_unet(model.folder, "float")):
        read_by: dict[bool, set[str]] = {True: set(), False: set()}
        for place, module in unet.named_modules():
            if hasattr(module, "of_text"):
                leaf = place.rpartition(".")[2].removesuffix("_quantizer")
                read_by[module.of_text].add(f"attn2.{leaf}" if ".attn2." in place else leaf)
        assert read_by[True] == {"attn2.context", "attn2.key", "attn2.value"}
        assert {"input", "query", "key", "value", "attn2.query"} <= read_by[False]


@exact
@pytest.mark.parametrize("name", INTEGER)
@torch.no_grad()
def test_integers_in_float32_equal_floating_point(name: str, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    floating = load_quantized_unet(model.folder, "float")
    loaded = load_quantized_unet(model.folder, "integer", torch.float32)
    calls = [model.at(t) for t in TIMESTEPS]
    calls += [model.call, model.call | {"timestep": torch.tensor([801.0, 1.0])}]
    ratios = [decibels(floating(**call)[0], loaded(**call)[0]) for call in calls]
    # Sums are ordered differently. Seldom does an activation then fall to the next code, which is
    # noise of that code; where none does, everything is equal to 1e-4. With live ranges it may be
    # the end of a range, which moves all codes of that tensor.
    assert min(ratios) > (20 if name in ("live", "residual") else 35)
    assert max(ratios) > 80


@exact
@pytest.mark.parametrize("name", INTEGER)
@torch.no_grad()
def test_each_integer_layer_equals_its_packed_one_on_the_same_input(
    name: str, calibrated_as: Models
) -> None:
    model = calibrated_as(name)
    packed = load_quantized_unet(model.folder, "float")
    integer = load_quantized_unet(model.folder, "integer", torch.float32)
    counted = []

    def compare(twin: nn.Module, x: torch.Tensor, output: torch.Tensor) -> None:
        integer.calls.current = packed.calls.current
        found = twin(x)
        assert (found - output).norm() < 1e-4 * output.norm()
        counted.append(twin)

    for layer_name, layer in packed.named_modules():
        twin = dict(integer.named_modules())[layer_name]
        if isinstance(twin, IntegerLayer) and twin.input_quantizer is not None:
            layer.register_forward_hook(lambda _, x, out, twin=twin: compare(twin, x[0], out))
    packed(**model.call | {"timestep": torch.tensor([801.0, 1.0])})
    integer.calls.current = None
    assert len(counted) > 20


@exact
@pytest.mark.parametrize("name", INTEGER)
def test_an_integer_unet_holds_what_the_packed_one_holds(name: str, calibrated_as: Models) -> None:
    folder = calibrated_as(name).folder
    packed = load_quantized_unet(folder, "float").state_dict()
    integer = load_quantized_unet(folder, "integer", torch.float32).state_dict()
    assert integer.keys() == packed.keys()
    different = [n for n in packed if not torch.equal(integer[n], packed[n])]
    assert not different


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("execution", ["float", pytest.param("auto", marks=exact)])
def test_saved_loaded_and_saved_again_is_the_same_file(
    name: str, execution: str, calibrated_as: Models, tmp_path: Path
) -> None:
    model = calibrated_as(name)
    loaded = load_quantized_unet(model.folder, execution, torch.float32)  # type: ignore[arg-type]
    save_quantized(loaded, tmp_path, description(micro_unet(), model.settings))
    for file in (WEIGHTS_FILE, "config.json"):
        assert (tmp_path / file).read_bytes() == (model.folder / file).read_bytes()


@exact
def test_what_was_rounded_to_bfloat16_is_not_saved(calibrated_as: Models, tmp_path: Path) -> None:
    model = calibrated_as("exponents")
    loaded = load_quantized_unet(model.folder, "integer", torch.bfloat16)
    with pytest.raises(DGQError, match=r"dtype=torch\.float32"):
        save_quantized(loaded, tmp_path, description(micro_unet(), model.settings))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["kmeans", "exponents scores", "kept projections", "w4a16"])
@torch.no_grad()
def test_frozen_in_place_is_as_saved_and_loaded(name: str, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    frozen = copy.deepcopy(model.unet)
    freeze_(frozen, model.settings)
    loaded = load_quantized_unet(model.folder, "float")
    assert torch.equal(frozen(**model.call)[0], model.output)
    states = frozen.state_dict(), loaded.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert [type(m) for m in frozen.modules()] == [type(m) for m in loaded.modules()]


@exact
@torch.no_grad()
def test_a_frozen_unet_can_be_prepared_for_integers(calibrated_as: Models) -> None:
    model = calibrated_as("exponents")
    frozen = copy.deepcopy(model.unet)
    freeze_(frozen, model.settings)
    execution = prepare_(frozen, "integer", torch.float32)
    loaded = load_quantized_unet(model.folder, "integer", torch.float32)
    assert execution == loaded.execution
    assert torch.equal(frozen(**model.call)[0], loaded(**model.call)[0])
    assert any(isinstance(m, IntegerLayer) for m in frozen.modules())


@pytest.mark.parametrize("name", ["kmeans", "exponents"])
def test_an_unfinished_calibration_is_neither_frozen_nor_saved(name: str, tmp_path: Path) -> None:
    settings = SETTINGS[name]
    unet = quantize_(micro_unet(), settings, TIMESTEPS, (8, 8))
    kinds = [type(m) for m in unet.modules()]
    with pytest.raises(DGQError, match=r"not calibrated: \S+ and \d+ more"):
        freeze_(unet, settings)
    with pytest.raises(DGQError, match="not calibrated"):
        save_quantized(unet, tmp_path, description(micro_unet(), settings))
    assert [type(m) for m in unet.modules()] == kinds
    assert not list(tmp_path.iterdir())


def test_a_frozen_unet_is_not_frozen_or_quantized_again(calibrated_as: Models) -> None:
    model = calibrated_as("kmeans")
    loaded = load_quantized_unet(model.folder, "float")
    with pytest.raises(DGQError, match="packed model"):
        freeze_(loaded, model.settings)
    with pytest.raises(DGQError, match="quantized already"):
        quantize_(loaded, model.settings, TIMESTEPS, (8, 8))


def test_what_is_stored_has_nothing_of_the_calibration(calibrated_as: Models) -> None:
    model = calibrated_as("exponents")
    stored = packed_state(model.unet, model.settings)
    words = ("weight_quantizer", "learnable", "observer", "processor")
    assert not [name for name in stored if any(word in name for word in words)]
    assert "mid_block.resnets.0.conv1.codes" in stored
    assert "mid_block.resnets.0.conv1.weight" not in stored


@torch.no_grad()
def test_a_learned_model_survives_freezing() -> None:
    """Biases that were learned and ranges that moved are those of the frozen UNet."""
    settings = SETTINGS["exponents a6"]
    unet = calibrate_(micro_unet(), settings, TIMESTEPS)
    layer = unet.mid_block.resnets[0].conv1
    layer.weight_quantizer.bias += 0.5
    layer.weight_quantizer.scale *= 1.25
    layer.input_quantizer.scale *= 0.75
    x = torch.randn(1, 16, 4, 4)
    expected = layer(x)
    freeze_(unet, settings)
    assert torch.equal(unet.mid_block.resnets[0].conv1(x), expected)


@pytest.mark.parametrize("execution", ["float", pytest.param("integer", marks=exact)])
def test_no_weight_is_assigned_to_a_layer_that_would_not_use_it(
    execution: str, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(INTEGER[0]).folder, execution)
    assigned = 0
    for layer in unet.modules():
        if isinstance(layer, PackedLayer | KernelLayer):
            for weight in (torch.ones(1), nn.Parameter(torch.ones(1))):
                with pytest.raises(DGQError, match=r"assign it to a layer of dgq\.dequantize"):
                    layer.weight = weight
                assigned += 1
    assert assigned > 0
