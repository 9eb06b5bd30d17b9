"""An option that would have no effect, or is no value, is refused in one line before any work."""

from pathlib import Path

import pytest

from tests.calibration_runs import command, contents, error_lines
from tests.tiny_pipelines import LEARNING, fit_arguments

RECIPE = "model.recipe.init_args"

IN_A_FILE = {
    "model: {pipeline: scenes}": "model.pipeline would be ignored",
    "data: {pipeline: scenes}": "data.pipeline would be ignored",
    "fit: {data: {pipeline: scenes}}": "data.pipeline would be ignored",
    "model.pipeline: scenes": "model.pipeline would be ignored",
    "config: other.yaml": "other.yaml: data.pipeline would be ignored",
    "data: section.yaml": "section.yaml: data.pipeline would be ignored",
    "trainer: {limit_train_batches: 3}": "derived from model.recipe.learning",
    "model: {waiting: null}": "model.waiting is null",
    "model: {recipe: null}": "model.recipe is null",
    "data: {generation: null}": "data.generation is null",
    "model: {recipe: {class_path: RTN, dict_kwargs: {n: 1}}}": "dict_kwargs: n is not an option",
}


@pytest.mark.parametrize("content", IN_A_FILE)
def test_it_is_refused_in_a_file(
    content: str, micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "section.yaml").write_text("pipeline: scenes")
    (tmp_path / "other.yaml").write_text("data: {pipeline: scenes}")
    (tmp_path / "own.yaml").write_text(content)
    own = ["--config", str(tmp_path / "own.yaml")]
    work = tmp_path / "work"
    work.mkdir()
    arguments = fit_arguments(micro_folder, work)
    args = [*own, *arguments] if content.startswith("fit") else [*arguments, *own]
    assert command(args) == 2
    assert list(contents(work)) == ["captions.txt"]
    (line,) = error_lines(capsys)
    assert IN_A_FILE[content] in line


ON_THE_COMMAND_LINE = {
    ('--model={"pipeline": "scenes"}',): "--model: model.pipeline would be ignored",
    ("--data", '{"pipeline": "scenes"}'): "--data: data.pipeline would be ignored",
    ("--model.recipe.learning", "null"): f"{RECIPE}.learning is null",
    ("--model.recipe=Custom", "--model.recipe.quantization=null"): f"{RECIPE}.quantization is null",
    ("--model.recipe.group_size=8", "--model.recipe=DGQ"): "group_size is not an option of DGQ",
    (*LEARNING, "--model.recipe", "RTN"): "learning is not an option of RTN",
    ("--seed_everything", "7"): "--data.seed is the seed",
    ("--seed_everything", "true"): "--data.seed is the seed",
}


@pytest.mark.parametrize("options", ON_THE_COMMAND_LINE)
def test_it_is_refused_on_the_command_line(
    options: tuple[str, ...],
    micro_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command([*fit_arguments(micro_folder, tmp_path), *options]) == 2
    assert list(contents(tmp_path)) == ["captions.txt"]
    (line,) = error_lines(capsys)
    assert ON_THE_COMMAND_LINE[options] in line


def test_sections_of_their_own_are_read_and_have_an_effect(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recipes that come later keep the options that they have too."""
    own = tmp_path / "own.yaml"
    own.write_text("precision: bf16-mixed\nlimit_train_batches: null")
    data = '{"n_prompts": 2, "captions": "' + "x" * 300 + '"}'
    arguments = fit_arguments(micro_folder, tmp_path, "run", "--data", data)
    more = ("--trainer", str(own), "--seed_everything=false", "--trainer.fast_dev_run=1")
    recipe = ("--model.recipe.weight_bits=3", "--model.recipe.class_path", "DGQ")
    assert command([*arguments, *more, *recipe, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("precision: bf16-mixed", "weight_bits: 3", "dgq.DGQ"))
    assert command([*arguments, *more, *recipe]) == 0
    assert "tried 1 steps" in capsys.readouterr().out


def test_a_section_in_a_file_says_what_stands_twice(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("n_prompts: 2\nn_prompts: 3\n")
    assert command([*fit_arguments(micro_folder, tmp_path), "--data", str(own)]) == 2
    assert "n_prompts stands a second time in line 2" in capsys.readouterr().err
