"""A finished run is restored, and never written over."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.calibration_runs import (
    SAME,
    assert_same_result,
    command,
    contents,
    error_lines,
)
from tests.tiny_pipelines import LEARNING, fit_arguments


def test_a_finished_run_that_is_resumed_stays_as_it_is(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / "finished"))
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, "finished"), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    after = contents(run)
    assert all(after[name] == before[name] for name in SAME)


def without_its_model(run: Path) -> None:
    shutil.rmtree(run / "quantized")


def with_a_flipped_bit(run: Path) -> None:
    file = run / "quantized" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 4
    file.write_bytes(content)


def without_manifest_and_log(run: Path) -> None:
    (run / "quantized" / "config.json").unlink()
    (run / "log.csv").unlink()
    (run / "config.yaml").unlink()


def with_a_truncated_log(run: Path) -> None:
    content = (run / "log.csv").read_bytes()
    (run / "log.csv").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "lose",
    [without_its_model, with_a_flipped_bit, without_manifest_and_log, with_a_truncated_log],
)
def test_a_finished_run_gets_back_what_it_lost(
    lose: Callable[[Path], None],
    finished_work: Path,
    micro_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / lose.__name__))
    lose(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert "written again from the checkpoint" in capsys.readouterr().out
    assert_same_result(run, finished_work / "run")


def test_a_finished_model_without_its_checkpoint_is_not_written_over(
    finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / "no-ckpt"))
    (run / "last.ckpt").unlink()
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 2
    assert command(arguments) == 2
    assert contents(run) == before
    assert all("--run DIR" in line for line in error_lines(capsys))


def test_an_existing_run_is_not_overwritten(
    run: Path, finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert command([*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]) == 2
    assert contents(run) == before
    (line,) = error_lines(capsys)
    assert "already holds a calibration" in line
    assert "--ckpt_path last" in line


@pytest.mark.parametrize("value", ["true", pytest.param("9", marks=pytest.mark.slow)])
def test_a_trial_runs_with_learned_ranges_and_keeps_nothing(
    value: str, finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / f"trial-{value}"))
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    trial = ("--trainer.fast_dev_run", value, "--model.recipe.learning.activation_lr", "0.05")
    assert command([*arguments, *trial]) == 0
    assert contents(run) == before
    assert "nothing was kept" in capsys.readouterr().out
