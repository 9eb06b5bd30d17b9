"""Whatever ends a run, it resumes bit-identically."""

import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from data.calibration import CalibrationData
from dgq.recipes import mixed
from dgq.storage.checkpoint import read_manifest
from dgq.targets import NETWORK
from lit.calibration import Calibration
from lit.callbacks import RunFolder
from lit.cli import main
from tests.calibration_runs import assert_same_result, command, rows
from tests.children import calibrate_in_child
from tests.tiny_pipelines import LEARNING, fit_arguments


class MachineError(Exception):
    """Stands for a machine that fails."""


def fail(*_: Any) -> None:
    raise MachineError


def kill_in(target: int | None, iteration: int, measures: bool = True) -> None:
    """Patch a child: it is killed at an iteration of a target, or of the UNet as a whole."""
    step = Calibration.training_step

    def killed(self: Calibration, rows: Tensor, batch_idx: int) -> Tensor:
        here = self.target_name == NETWORK if target is None else self.current_epoch == target
        if here and batch_idx == iteration:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, rows, batch_idx)

    setattr(Calibration, "training_step", killed)  # noqa: B010
    if not measures:
        setattr(mixed, "measure_sensitivity", None)  # noqa: B010


def on_a_small_disk() -> None:
    """No file may become larger than 250 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, resource.RLIM_INFINITY))


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    finished_work: Path, micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits that were chosen stand in the checkpoint: nothing is measured again."""
    arguments = [*fit_arguments(micro_folder, finished_work, "killed"), *LEARNING]
    resumed = [*arguments, "--ckpt_path", "last"]
    run = finished_work / "killed"
    first = calibrate_in_child(arguments, partial(kill_in, 9, 2), tmp_path)
    assert first.status == -signal.SIGKILL, first.said
    assert len(rows(run)) == 9
    monkeypatch.setattr("dgq.recipes.mixed.measure_sensitivity", None)
    second = calibrate_in_child(resumed, partial(kill_in, None, 3, measures=False), tmp_path)
    assert second.status == -signal.SIGKILL, second.said
    assert len(rows(run)) == 24
    assert not (run / "quantized" / "config.json").exists()
    assert command(resumed) == 0
    assert_same_result(run, finished_work / "run")
    layers = read_manifest(run).quantization.layers
    assert len({own.weights.n_bits for own in layers.values() if own.weights}) > 2


def test_a_run_that_cannot_write_says_so_and_goes_on_later(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "limited"), *LEARNING]
    limited = calibrate_in_child(arguments, on_a_small_disk, tmp_path)
    assert limited.status == 2, limited.said
    line = limited.said.splitlines()[-1]
    assert "File too large" in line
    assert "--ckpt_path last" in line
    run = finished_work / "limited"
    assert 0 < len(rows(run)) < 24
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert_same_result(run, finished_work / "run")


def between_log_and_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    write = RunFolder.on_train_epoch_end

    def write_and_fail(self: RunFolder, trainer: Any, module: Any) -> None:
        write(self, trainer, module)
        if trainer.current_epoch == 11:
            raise MachineError

    monkeypatch.setattr(RunFolder, "on_train_epoch_end", write_and_fail)


def before_the_model_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit.callbacks.save_quantized", fail)


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [between_log_and_checkpoint, before_the_model_is_written])
def test_a_resumed_run_equals_an_uninterrupted_one(
    interrupt: Callable[[pytest.MonkeyPatch], None],
    finished_work: Path,
    micro_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = interrupt.__name__
    arguments = [*fit_arguments(micro_folder, finished_work, name), *LEARNING]
    with monkeypatch.context() as patched:
        interrupt(patched)
        with pytest.raises(MachineError):
            main(arguments, CalibrationData)
    assert not (finished_work / name / "quantized" / "config.json").exists()
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert_same_result(finished_work / name, finished_work / "run")


def test_the_written_config_repeats_the_run_and_waiting_on_disk_changes_no_byte(
    finished_work: Path,
) -> None:
    again = finished_work / "again"
    config = finished_work / "run" / "config.yaml"
    disk = ("--model.waiting.place", "disk")
    assert command(["fit", "--config", str(config), "--run", str(again), *disk]) == 0
    assert_same_result(again, finished_work / "run")


@pytest.mark.slow
def test_a_folder_with_an_odd_name_is_a_folder(finished_work: Path, micro_folder: Path) -> None:
    """Markup, patterns of a shell, and letters of no one's locale."""
    name = "[bold] :x: [a-z]* é"
    arguments = [*fit_arguments(micro_folder, finished_work, name), *LEARNING]
    disk = ("--model.waiting.place", "disk")
    assert command([*arguments, *disk, "--trainer.max_steps", "12"]) == 3
    assert command([*arguments, *disk, "--ckpt_path", "last"]) == 0
    assert_same_result(finished_work / name, finished_work / "run")


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "early"), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last", "--trainer.max_steps", "12"]) == 3
    assert "has no checkpoint yet: starting from the beginning" in capsys.readouterr().out
    assert rows(finished_work / "early") == rows(finished_work / "run")[:2]


def move_in(run: Path, epoch: int) -> None:
    """Patch a child: its folder is renamed at the beginning of an epoch."""
    step = Calibration.training_step

    def moved(self: Calibration, rows: Tensor, batch_idx: int) -> Tensor:
        if self.current_epoch == epoch and batch_idx == 0:
            run.rename(run.with_name("moved"))
        return step(self, rows, batch_idx)

    setattr(Calibration, "training_step", moved)  # noqa: B010


@pytest.mark.slow
def test_a_run_whose_folder_is_moved_ends_and_resumes_there(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    """Another calibration may have begun in its place. Samples on disk have moved too."""
    run, disk = finished_work / "moving", ("--model.waiting.place", "disk")
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    ended = calibrate_in_child(arguments, partial(move_in, run, 9), tmp_path)
    assert ended.status == 2, ended.said
    assert f"{run} was moved or removed" in "".join(ended.said.splitlines()[-1:])
    assert not run.exists()
    assert len(rows(finished_work / "moved")) == 9
    resumed = [*fit_arguments(micro_folder, finished_work, "moved"), *LEARNING, *disk]
    killed = calibrate_in_child([*resumed, "--ckpt_path=last"], partial(kill_in, 12, 1), tmp_path)
    assert killed.status == -signal.SIGKILL, killed.said
    assert list((finished_work / "moved").glob("waiting-*"))
    again = (finished_work / "moved").rename(finished_work / "moved-again")
    resumed = [*fit_arguments(micro_folder, finished_work, again.name), *LEARNING, *disk]
    assert command([*resumed, "--ckpt_path=last"]) == 0
    assert_same_result(again, finished_work / "run")
