"""What readers are told about a comparison's models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
from diffusers import DDIMScheduler
from torch import nn

from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.storage.checkpoint import GenerationSettings, Manifest
from evaluation.comparison import Comparison
from evaluation.models import FULL_PRECISION, Model

CALIBRATED = (801.0, 601.0, 401.0, 201.0, 1.0)
BY_STEP = ActivationSettings(8, "multiples", qkv=False)
LIVE = ActivationSettings(8, "live", qkv=False)
ONE_RANGE = ActivationSettings(8, "multiples", qkv=False, per_step=False)


def notes(
    activations: ActivationSettings, n_steps: int, latents: tuple[int, int] = (8, 8)
) -> list[str]:
    """Notes on a model with these activations, drawn with a number of steps and a size."""
    weights = WeightSettings(4, symmetric=True)
    settings = QuantizationSettings(weights, activations, ScoreSettings(16))
    generation = GenerationSettings(n_steps)
    manifest = Manifest("scenes", {}, settings, generation, CALIBRATED, (8, 8))
    models = [Model(FULL_PRECISION), Model("ours", manifest=manifest)]
    pipeline: Any = SimpleNamespace(scheduler=DDIMScheduler(steps_offset=1))
    made = Comparison(models, "scenes", pipeline, "", generation, "auto", "cpu", latents)
    return list(made.notes())


def test_steps_without_scales_are_noted() -> None:
    assert notes(BY_STEP, 5) == []
    (note,) = notes(BY_STEP, 4)
    assert note.startswith("ours was not calibrated for these sampler steps")


@pytest.mark.parametrize("activations", [LIVE, ONE_RANGE], ids=["live", "one range"])
def test_nothing_is_noted_where_no_scale_depends_on_the_step(
    activations: ActivationSettings,
) -> None:
    assert notes(activations, 4) == []


@pytest.mark.parametrize("activations", [BY_STEP, LIVE], ids=["by step", "live"])
def test_another_size_than_the_calibrations_is_noted(activations: ActivationSettings) -> None:
    (note,) = notes(activations, 5, (6, 12))
    assert note == "ours was calibrated on latents of 8 x 8, these images have 6 x 12"


def test_a_model_is_loaded_once_until_another_one_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []
    alive: WeakSet[nn.Module] = WeakSet()

    def load(folder: Path, *_: Any, **__: Any) -> nn.Module:
        assert not alive  # never two at once
        loaded.append(folder.name)
        alive.add(unet := nn.Identity())
        return unet

    monkeypatch.setattr("evaluation.comparison.checkpoint.load_quantized_unet", load)
    models = [Model(FULL_PRECISION), *(Model(name, Path(name)) for name in ("one", "two"))]
    pipeline: Any = SimpleNamespace(unet=nn.Identity())
    made = Comparison(models, "", pipeline, "", GenerationSettings(4), "auto", "cpu", (8, 8))
    for number in (1, 0, 1, 2, 2, 1):
        assert made.unet(number) is made.unet(number)
    assert made.unet(0) is pipeline.unet
    assert loaded == ["one", "two", "one"]
