"""State dicts of a UNet that runs: given, taken back, and those of others refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.layers import FloatLayer
from dgq.storage.checkpoint import load_quantized_unet, save_quantized
from tests.quantized_models import SETTINGS, TIMESTEPS, Calibrated, description
from tests.tiny_pipelines import calibrate_, micro_unet

Models = Callable[[str], Calibrated]
MODES = ("auto", "float")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the settings of "multiples", of other weights."""
    folder = tmp_path_factory.mktemp("other")
    unet = micro_unet()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.mul_(1.3)
    described = description(unet, SETTINGS["multiples"])
    save_quantized(calibrate_(unet, SETTINGS["multiples"], TIMESTEPS), folder, described)
    return folder


@torch.no_grad()
def output(unet: nn.Module, model: Calibrated) -> Tensor:
    found: Tensor = unet(**model.call)[0]
    return found


def loaded(folder: Path, mode: Any) -> UNet2DConditionModel:
    return load_quantized_unet(folder, mode, torch.float32)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["multiples", "kmeans", "residual", "mixed"])
def test_its_own_state_is_taken_back_through_a_file(
    name: str, mode: str, assign: bool, calibrated_as: Models
) -> None:
    model = calibrated_as(name)
    unet, twin = loaded(model.folder, mode), loaded(model.folder, mode)
    file = io.BytesIO()
    torch.save(unet.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert not unet.load_state_dict(state, assign=assign).missing_keys
    assert str(unet.execution) == str(twin.execution)
    assert torch.equal(output(unet, model), output(twin, model))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_state_of_another_model_makes_it_that_model(
    mode: str, strict: bool, other: Path, calibrated_as: Models, tmp_path: Path
) -> None:
    """Layers that multiply integers held the old weight with new scales, and saved both."""
    model = calibrated_as("multiples")
    unet, twin = loaded(model.folder, mode), loaded(other, mode)
    expected = output(twin, model)
    assert not torch.equal(output(unet, model), expected)
    unet.load_state_dict(twin.state_dict(), strict=strict)
    assert torch.equal(output(unet, model), expected)
    unet.save_pretrained(tmp_path)
    assert torch.equal(output(loaded(tmp_path, mode), model), expected)


def of_stock(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return micro_unet().state_dict()


def without_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != max(state)}


def with_nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(name for name in state if name.endswith("input_quantizer.scale"))
    return state | {name: torch.full_like(state[name], torch.nan)}


def of_fewer_steps(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ends = ("quantizer.scale", "quantizer.zero_point")
    return {name: t[:2] if name.endswith(ends) else t for name, t in state.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", [of_stock, without_one, with_nan, of_fewer_steps])
def test_what_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], mode: str, calibrated_as: Models
) -> None:
    model = calibrated_as("multiples")
    unet = loaded(model.folder, mode)
    before, execution = output(unet, model), str(unet.execution)
    with pytest.raises(DGQError, match="not of this quantized UNet") as error:
        unet.load_state_dict(change(unet.state_dict()))
    assert "\n" not in str(error.value)
    assert str(unet.execution) == execution
    assert torch.equal(output(unet, model), before)


@pytest.mark.parametrize("name", ["kmeans", "w8a8 symmetric", "w4a16"])
def test_the_state_of_other_settings_is_refused(name: str, calibrated_as: Models) -> None:
    model = calibrated_as("multiples")
    unet = loaded(model.folder, "auto")
    before = output(unet, model)
    for strict in (True, False):
        with pytest.raises(DGQError, match="not of this quantized UNet"):
            unet.load_state_dict(
                loaded(calibrated_as(name).folder, "auto").state_dict(), strict=strict
            )
        assert torch.equal(output(unet, model), before)


def test_a_layer_that_is_laid_out_takes_no_tensors_alone(calibrated_as: Models) -> None:
    unet: Any = loaded(calibrated_as("multiples").folder, "auto")
    for name, layer in unet.named_modules():
        if isinstance(layer, IntegerLayer):
            assert not isinstance(layer, FloatLayer)
            with pytest.raises(DGQError, match="takes no tensors alone"):
                layer.load_state_dict(layer.state_dict())
            assert name
            break


@pytest.mark.parametrize("mode", MODES)
def test_what_is_stored_is_not_trained(mode: str, calibrated_as: Models) -> None:
    unet = loaded(calibrated_as("multiples").folder, mode)
    with pytest.raises(DGQError, match="put an adapter on the UNet"):
        unet.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert unet.requires_grad_(False) is unet
