"""Every YAML parses, and its settings are what its name says."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.calibration import CalibrationData
from dgq import recipes
from dgq.math.exponents import spare_activation_bits, spare_weight_bits
from dgq.recipes import RECIPES, Recipe
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    NetworkSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from lit.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
BITS = re.compile(r"(rtn_|dgq_|qdiffusion_|tfmq_|mixdq_)?w(\d+)(?:a(\d+))?(?:_live|_residual)?$")
RECIPES_IN_FILES = [name for name in NAMES if BITS.match(name)]
INTEGER = [name for name in RECIPES_IN_FILES if name[0] == "w" and not name.endswith("a16")]


def parsed(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    """The whole configuration that ``--print_config`` prints for some configs."""
    arguments = [part for name in names for part in ("--config", f"{name}.yaml")]
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *arguments, "--print_config"], CalibrationData)
    assert exit_.value.code == 0
    content = yaml.safe_load(capsys.readouterr().out)
    return content.get("fit", content)


def recipe_of(config: dict[str, Any]) -> Recipe:
    """The recipe that a configuration names, with the options it gives."""
    given = config["model"]["recipe"]
    options = dict(given.get("init_args", {}))
    if "learning" in options:
        options["learning"] = LearningSettings(**options["learning"])
    if options.get("network") is not None:
        options["network"] = NetworkSettings(**options["network"])
    for name in ("keep", "split_skips"):
        if name in options:
            options[name] = tuple(options[name])
    recipe: Recipe = getattr(recipes, given["class_path"].rpartition(".")[2])(**options)
    return recipe


def settings_of(config: dict[str, Any]) -> QuantizationSettings:
    return recipe_of(config).quantization


def learning_of(config: dict[str, Any]) -> LearningSettings:
    return recipe_of(config).learning


@pytest.mark.parametrize("name", NAMES)
def test_every_config_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(capsys, name)
    assert learning_of(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_says_what_it_is_for(name: str) -> None:
    assert (CONFIGS / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("name", RECIPES_IN_FILES)
def test_bits_are_those_of_the_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    match = BITS.match(name)
    assert match is not None
    settings = settings_of(parsed(capsys, name))
    activations = int(match[3] or 16)
    assert settings.weights.n_bits == int(match[2])
    assert settings.activations.n_bits == activations
    # MixDQ and ours leave attention in floating point.
    assert settings.scores.n_bits == (16 if match[1] in (None, "mixdq_") else activations)


def test_every_recipe_has_a_file_and_every_such_file_a_recipe() -> None:
    assert sorted(RECIPES) == RECIPES_IN_FILES


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_built_in_recipe_is_what_its_file_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert RECIPES[name] == recipe_of(parsed(capsys, name))
    assert RECIPES[name].name == name


@pytest.mark.parametrize("name", INTEGER)
def test_integer_recipes_fill_the_budget_of_bits(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parsed(capsys, name)
    settings = settings_of(config)
    weights, activations = settings.weights, settings.activations
    on_weights = spare_weight_bits(weights.n_bits, weights.symmetric)
    assert on_weights is not None
    assert activations.grouping == (name.partition("_")[2] or "multiples")
    assert not activations.qkv
    spare = on_weights + spare_activation_bits(activations.n_bits)
    used = weights.max_exponent + (0 if weights.absorbs else activations.max_exponent)
    assert used == spare
    assert learning_of(config).iterations >= 100


@pytest.mark.parametrize("name", [name for name in RECIPES_IN_FILES if name.startswith("dgq")])
def test_dgq_learns_and_groups_for_each_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(capsys, name)
    settings = settings_of(config)
    bits = settings.activations.n_bits
    assert settings == QuantizationSettings(
        WeightSettings(settings.weights.n_bits, "mse"),
        ActivationSettings(bits, n_groups=8, per_step=True),
        # 4-bit affine scores of self-attention would be the largest of all errors.
        ScoreSettings(bits, "log", "log" if bits <= 4 else "affine", keep_start_token=True),
        ("conv_in", "conv_out"),
    )
    assert learning_of(config).iterations >= 100
    assert config["data"]["n_prompts"] >= 96


@pytest.mark.parametrize("name", [name for name in RECIPES_IN_FILES if name.startswith("rtn")])
def test_rtn_is_static_per_tensor_and_learns_nothing(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parsed(capsys, name)
    settings = settings_of(config)
    bits = settings.activations.n_bits
    assert settings == QuantizationSettings(
        WeightSettings(settings.weights.n_bits, "minmax"),
        ActivationSettings(bits, n_groups=1, per_step=False),
        ScoreSettings(bits, "affine", "affine", keep_start_token=False),
        ("conv_in", "conv_out"),
    )
    assert learning_of(config).total_iterations == 0


def test_every_integer_recipe_has_the_published_one_and_rtn_beside_it() -> None:
    assert set(INTEGER) >= {"w8a8", "w4a8", "w4a6", "w4a4"}
    bits = {name.partition("_")[0] for name in INTEGER}
    assert {f"{other}_{name}" for name in bits for other in ("rtn", "dgq")} <= set(NAMES)


@pytest.mark.parametrize(
    ("model", "pipeline", "steps", "guidance"),
    [
        ("sd14", "CompVis/stable-diffusion-v1-4", 25, 7.5),
        ("sdxl_turbo", "stabilityai/sdxl-turbo", 4, 0.0),
    ],
)
def test_a_recipe_and_a_model_compose(
    model: str, pipeline: str, steps: int, guidance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parsed(capsys, "w4a6", model)
    assert config["pipeline"] == pipeline
    assert config["data"]["generation"]["num_inference_steps"] == steps
    assert config["data"]["generation"]["guidance_scale"] == guidance
    assert settings_of(config).activations.n_bits == 6


def test_a_later_config_overrules_an_earlier_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert settings_of(parsed(capsys, "w4a6", "w8a8")).weights.n_bits == 8


def test_the_default_is_w4a8_in_integers_on_the_embedded_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    default, w4a8 = parsed(capsys), parsed(capsys, "w4a8")
    assert settings_of(default) == settings_of(w4a8)
    assert default["pipeline"] == "scenes"
    assert "outputs/run" in str(default["run"])
    assert "outputs/w4a8" in str(w4a8["run"])
