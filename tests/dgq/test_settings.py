"""Settings refuse what lies outside of their domain when they are made."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dgq.errors import DGQError, SettingsError
from dgq.settings import (
    ActivationSettings,
    LayerSettings,
    LearningSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from dgq.storage.checkpoint import GenerationSettings

BITS: list[Callable[[Any], Any]] = [WeightSettings, ActivationSettings, ScoreSettings]


@pytest.mark.parametrize("settings", BITS)
@pytest.mark.parametrize("n_bits", [0, 1, 9, 15, 17, -4, 3.5, 4.0, True, "4", None])
def test_bits_other_than_2_to_8_and_16_are_refused(
    settings: Callable[[Any], Any], n_bits: Any
) -> None:
    with pytest.raises(SettingsError, match="n_bits must be"):
        settings(n_bits)


@pytest.mark.parametrize("settings", BITS)
@pytest.mark.parametrize("n_bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_bits_from_2_to_8_and_16_are_accepted(settings: Callable[[Any], Any], n_bits: int) -> None:
    assert settings(n_bits).n_bits == n_bits


@pytest.mark.parametrize("n_groups", [0, -1, 2.0, True])
def test_groups_are_a_whole_number_from_one(n_groups: Any) -> None:
    with pytest.raises(SettingsError, match=r"activations\.n_groups must be"):
        ActivationSettings(8, n_groups=n_groups)


def test_exponents_fit_into_bytes() -> None:
    assert WeightSettings(4, group_size=64, max_exponent=255).has_exponents
    with pytest.raises(SettingsError, match="at most 255, since exponents are stored as bytes"):
        WeightSettings(4, group_size=64, max_exponent=256)


@pytest.mark.parametrize("steps", [0, -3, 1.5])
def test_sampler_steps_are_a_whole_number_from_one(steps: Any) -> None:
    with pytest.raises(SettingsError, match="num_inference_steps must be"):
        GenerationSettings(steps)


def test_guidance_is_kept_as_a_float_whoever_gives_it() -> None:
    assert repr(GenerationSettings(2, 3)) == repr(GenerationSettings(2, 3.0))
    assert isinstance(replace(GenerationSettings(2), guidance_scale=0).guidance_scale, float)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_guidance_is_finite(guidance: float) -> None:
    with pytest.raises(SettingsError, match="guidance_scale must be finite"):
        GenerationSettings(2, guidance)


@pytest.mark.parametrize("size", [(32, None), (None, 32), (0, 32), (32, -8)])
def test_height_and_width_are_given_together_and_positive(size: tuple[Any, Any]) -> None:
    # Stock pipelines ignore a height without a width, and the manifest would lie.
    with pytest.raises(SettingsError, match=r"height|width"):
        GenerationSettings(2, 1.0, *size)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightSettings(4, "best"),  # type: ignore[arg-type]
        lambda: ScoreSettings(4, "linear"),  # type: ignore[arg-type]
        lambda: ScoreSettings(4, "log", "linear"),  # type: ignore[arg-type]
    ],
)
def test_unknown_methods_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(SettingsError, match=r"best|linear"):
        make()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", -1),
        ("polish_iterations", -1),
        ("rounding_lr", -0.1),
        ("scale_lr", float("nan")),
        ("polish_lr", -1.0),
        ("penalty", -1.0),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("warmup", float("nan")),
    ],
)
def test_learning_settings_outside_of_their_domain_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"learning\.{name} must be"):
        LearningSettings(**{name: value})


def test_settings_errors_are_what_users_are_shown() -> None:
    assert issubclass(SettingsError, DGQError)


def test_total_iterations_are_those_of_both_phases() -> None:
    assert LearningSettings(iterations=7, polish_iterations=5).total_iterations == 12


@pytest.mark.parametrize(
    ("activations", "follows", "remembers"),
    [
        (ActivationSettings(8), True, False),
        (ActivationSettings(8, per_step=False), False, False),
        (ActivationSettings(8, "live", max_exponent=0), False, False),
        (ActivationSettings(8, "residual", max_exponent=0), False, True),
        (ActivationSettings(16, "residual"), False, False),
    ],
)
def test_what_depends_on_steps_and_what_remembers_calls(
    activations: ActivationSettings, follows: bool, remembers: bool
) -> None:
    settings = QuantizationSettings(WeightSettings(4), activations, ScoreSettings(16))
    assert (settings.follows_steps, settings.remembers) == (follows, remembers)
    one = {"mid_block.resnets.0.conv1": LayerSettings(activations=activations)}
    floats = ActivationSettings(16)
    single = QuantizationSettings(WeightSettings(4), floats, ScoreSettings(16), layers=one)
    assert (single.follows_steps, single.remembers) == (follows, remembers)


def test_tables_of_scores_follow_the_steps_whatever_the_activations() -> None:
    live = ActivationSettings(8, "live", max_exponent=0)
    scores = ScoreSettings(8, "affine", "affine")
    assert QuantizationSettings(WeightSettings(4), live, scores).follows_steps
