"""Configs compose: any recipe with any bits and any model, by file or by short name."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import dgq
from data.calibration import CalibrationData
from dgq import recipes
from dgq.settings import LearningSettings, NetworkSettings
from lit.cli import main
from lit.configs import BITS, CONFIGS, MODELS, RECIPES

FILES = sorted(
    file for folder in (CONFIGS, RECIPES, BITS, MODELS) for file in folder.glob("*.yaml")
)
WHOLE = re.compile(r".*_bits$|.data.generation")
"""Bits, and the settings of a sampler, are said together."""

WIDTHS = re.compile(r"w(\d+)a(\d+)")


def parsed(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    """The whole configuration that ``--print_config`` prints for some configs."""
    arguments = [part for name in names for part in ("--config", name)]
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *arguments, "--print_config"], CalibrationData)
    assert exit_.value.code == 0
    content = yaml.safe_load(capsys.readouterr().out)
    return content.get("fit", content)


def recipe_of(config: dict[str, Any]) -> dgq.Recipe:
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
    recipe: dgq.Recipe = getattr(recipes, given["class_path"].rpartition(".")[2])(**options)
    return recipe


def leaves(content: Any, name: str = "") -> dict[str, Any]:
    """Values by their dotted names."""
    if not isinstance(content, dict):
        return {name: content}
    return {
        n: v for key, value in content.items() for n, v in leaves(value, f"{name}.{key}").items()
    }


@pytest.mark.parametrize("name", dgq.RECIPES)
def test_a_short_name_is_the_recipe_of_that_name_in_python(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe_of(parsed(capsys, f"{name}.yaml")) == dgq.RECIPES[name]


def test_every_recipe_and_every_number_of_bits_has_a_name_in_python() -> None:
    of_recipes = {file.stem for file in RECIPES.glob("*.yaml")} - {"ours"}
    parts = {part for name in dgq.RECIPES for part in name.split("_")}
    assert parts == of_recipes | {file.stem for file in BITS.glob("*.yaml")}


@pytest.mark.parametrize("file", sorted(BITS.glob("*.yaml")), ids=lambda file: file.stem)
def test_bits_are_those_of_the_name(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    widths = WIDTHS.fullmatch(file.stem)
    assert widths is not None
    weights, activations = (int(n_bits) for n_bits in widths.groups())
    settings = recipe_of(parsed(capsys, "rtn", file.stem)).quantization
    assert settings.weights.n_bits == weights
    assert settings.activations.n_bits == settings.scores.n_bits == activations


@pytest.mark.parametrize(
    "names",
    [("dgq.yaml", "w4a4.yaml"), ("w4a4.yaml", "dgq.yaml"), ("rtn", "dgq", "w8a8", "w4a4")],
    ids="+".join,
)
def test_a_recipe_and_bits_compose_to_what_the_short_name_is(
    names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    composed, short = parsed(capsys, *names), parsed(capsys, "dgq_w4a4")
    assert composed["model"] == short["model"]
    assert composed["data"] == short["data"]


def test_bits_alone_are_of_the_default_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe_of(parsed(capsys, "w4a6")) == recipe_of(parsed(capsys, "ours", "w4a6"))
    default = parsed(capsys)
    assert recipe_of(default) == recipe_of(parsed(capsys, "w4a8"))
    assert default["pipeline"] == "scenes"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_says_what_it_is_for(file: Path) -> None:
    assert file.read_text().startswith("# ")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_sets_what_it_says_and_repeats_no_default(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = leaves(yaml.safe_load(file.read_text()))
    recipe = said.pop(".model.recipe.class_path", "Ours")
    default = leaves(parsed(capsys)) | leaves(default_options(recipe), ".model.recipe.init_args")
    found = leaves(parsed(capsys, file.stem))
    assert found[".model.recipe.class_path"].endswith(f".{recipe}")
    assert {name: found[name] for name in said} == said
    repeated = {name for name, value in said.items() if default[name] == value}
    assert all(WHOLE.match(name) for name in repeated)


def default_options(class_path: str) -> dict[str, Any]:
    """The plain options that a recipe has by default."""
    return vars(getattr(recipes, class_path)())


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
    assert recipe_of(config).quantization.activations.n_bits == 6


def test_published_learning_goes_with_any_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """At 4 bits too, where ranges would be learned by default."""
    learning = recipe_of(parsed(capsys, "dgq_w4a4", "published")).learning
    assert learning.iterations == 20_000
    assert not learning.learns_ranges


def test_one_option_of_the_learning_leaves_the_others_to_the_recipe() -> None:
    assert dgq.DGQ(4, 4, learning=LearningSettings(iterations=7)).learning.learns_ranges
    assert not dgq.DGQ(4, 6, learning=LearningSettings(iterations=7)).learning.learns_ranges
    assert not dgq.DGQ(4, 4, learning=LearningSettings(activation_lr=0)).learning.learns_ranges
