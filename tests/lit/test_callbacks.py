"""The log, the progress bar and the last checkpoint of a run."""

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit.calibration import Calibration
from lit.callbacks import RunFolder, TargetCheckpoint, TargetProgress


@pytest.fixture
def module(micro_folder: Path) -> Iterator[Calibration]:
    """A calibration at its second of three targets, the first of which is finished."""
    module = Calibration(str(micro_folder))
    module.trainer = SimpleNamespace(current_epoch=1, is_global_zero=True)  # type: ignore[assignment]
    module.calibrator.targets = dict.fromkeys(("first", "second", "third"), module)
    module.calibrator.records = [
        {"target": "first", "error_nearest": 0.5, "error": 0.25},
        {"target": "second", "error_nearest": 0.75},
    ]
    yield module
    module.calibrator.targets = {}


def test_the_log_has_finished_targets_only(module: Calibration, tmp_path: Path) -> None:
    RunFolder(tmp_path, "", None).on_train_epoch_end(module.trainer, module)
    with (tmp_path / "log.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["target", "error_nearest", "error"],
            ["first", "0.5", "0.25"],
        ]
    assert not (tmp_path / "quantized").exists()


def test_the_configuration_is_written_at_the_start(module: Calibration, tmp_path: Path) -> None:
    RunFolder(tmp_path / "new", "a: 1\n", None).on_train_start(module.trainer, module)
    assert (tmp_path / "new" / "config.yaml").read_text() == "a: 1\n"


def test_the_bar_names_the_target_and_the_error_reached(
    module: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = TargetProgress()
    trainer = SimpleNamespace(
        current_epoch=1, max_epochs=3, num_training_batches=4, is_global_zero=True
    )
    module.calibrator.records.pop()
    bar.on_train_start(trainer, module)  # type: ignore[arg-type]
    bar.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    bar.on_train_batch_end(trainer, module, None, None, 3)  # type: ignore[arg-type]
    bar.on_train_end(trainer, module)  # type: ignore[arg-type]
    text = capsys.readouterr().err
    assert "second" in text
    assert "2/3" in text
    assert "0.5000 -> 0.2500" in text


def test_the_bar_is_closed_by_an_exception(
    module: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = TargetProgress()
    trainer = SimpleNamespace(
        current_epoch=0, max_epochs=3, num_training_batches=4, is_global_zero=True
    )
    bar.on_train_start(trainer, module)  # type: ignore[arg-type]
    progress = bar._progress
    assert progress is not None
    bar.on_exception(trainer, module, ValueError())  # type: ignore[arg-type]
    assert progress.finished is False
    assert not progress.live.is_started
    assert bar._progress is None


def test_checkpoints_are_one_file_in_the_runs_folder(tmp_path: Path) -> None:
    checkpoint = TargetCheckpoint(tmp_path)
    assert checkpoint.dirpath == str(tmp_path)
    assert checkpoint.format_checkpoint_name({}) == str(tmp_path / "last.ckpt")
