"""Every setting is explained and printed."""

from pathlib import Path

import pytest

from tests.calibration_runs import (
    command,
    contents,
)
from tests.tiny_pipelines import fit_arguments


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fit", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option, explanation in {
        "--model.recipe.help": "options of one",
        "--data.captions": "hub id of a dataset",
        "--ckpt_path": "the file of a checkpoint",
        "--data.generation.guidance_scale": "classifier-free guidance",
        "--run": "Folder that the run writes into",
        "--pipeline": "in the original layout, or hub id",
    }.items():
        assert option in text
        assert explanation in text
    assert "Lightning Model Registry" not in text


def test_help_of_a_recipe_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fit", "--model.recipe.help", "DGQ"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option, explanation in {
        "--model.recipe.weight_bits": "2 to 8, or 16 for floating point",
        "--model.recipe.n_groups": "1 is per-tensor",
        "--model.recipe.keep_start_token": "``<start>`` token",
        "--model.recipe.learning.penalty": "weight of the term that drives each rounding",
    }.items():
        assert option in text
        assert explanation in text


def test_print_config_prints_every_setting_and_runs_nothing(
    tmp_path: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(micro_folder, tmp_path, "run", "--config", "w4a6.yaml")
    assert command([*arguments, "--print_config"]) == 0
    assert list(contents(tmp_path)) == ["captions.txt"]
    text = capsys.readouterr().out
    assert "activation_bits: 6" in text
    assert "rounding_lr:" in text
    assert f"pipeline: {micro_folder}" in text
