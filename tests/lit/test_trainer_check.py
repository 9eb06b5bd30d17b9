"""A Trainer that was made in Python is refused if it would not run the calibration as meant."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from data.calibration import CalibrationData
from dgq.errors import DGQError
from dgq.recipes import RTN
from lit.calibration import Calibration
from lit.strategy import AveragingStrategy
from lit.trainer_check import WATCHING, check_trainer

CHANGING = {
    *("BackboneFinetuning", "BaseFinetuning", "BatchSizeFinder", "EarlyStopping"),
    *("EMAWeightAveraging", "GradientAccumulationScheduler", "LearningRateFinder", "ModelPruning"),
    *("OnExceptionCheckpoint", "SpikeDetection", "StochasticWeightAveraging", "Timer"),
    "WeightAveraging",
}
"""Lightning's callbacks that change what is learned, or write within a target."""

QUIET = {
    **{"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False},
    **{"enable_progress_bar": False, "enable_model_summary": False},
}


def trainer(**options: Any) -> Trainer:
    return Trainer(**QUIET | {"max_epochs": 24, "limit_train_batches": 1} | options)


class Patient(EarlyStopping):
    """A callback of a user."""


class Counting(Callback):
    """Another one, which only watches."""


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"limit_train_batches": None}, "give it limit_train_batches=1"),
    ({"limit_train_batches": 1.0}, "give it limit_train_batches=1"),
    ({"max_epochs": 3}, "give it max_epochs=24"),
    ({"max_epochs": -1}, "give it max_epochs=24"),
    ({"max_steps": 3}, "give it max_steps=-1"),
    ({"max_time": {"hours": 1}}, "Timer is not supported"),
    ({"accumulate_grad_batches": 2}, "data.batch_size"),
    ({"gradient_clip_val": 1.0}, "gradient_clip_val=1.0"),
    ({"overfit_batches": 1}, "overfit_batches=1"),
    ({"precision": "bf16-true"}, "expected 32-true or bf16-mixed"),
    ({"precision": "16-true", "fast_dev_run": True}, "expected 32-true or bf16-mixed"),
    ({"devices": 2}, r"strategy=AveragingStrategy\(\)"),
    ({"strategy": "ddp"}, r"strategy=AveragingStrategy\(\)"),
    ({"strategy": "ddp_notebook", "devices": 2}, r"strategy=AveragingStrategy\(\)"),
    ({"strategy": AveragingStrategy(), "num_nodes": 2}, "num_nodes=2"),
    ({"callbacks": [EarlyStopping("error")]}, "EarlyStopping is not supported"),
    ({"callbacks": [Patient("error")]}, "Patient is not supported"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_it_is_refused_with_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DGQError, match=message) as caught:
        check_trainer(trainer(**options), 24, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16-mixed"},
        {"fast_dev_run": 3},
        {"strategy": AveragingStrategy(), "devices": 2},
        {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(every_n_epochs=3)]},
        {"callbacks": [SaveConfigCallback(LightningArgumentParser(), Namespace())]},
        {"enable_progress_bar": True, "enable_model_summary": True, "callbacks": [Counting()]},
    ],
)
def test_what_changes_nothing_is_accepted(options: dict[str, Any]) -> None:
    check_trainer(trainer(**options), 24, 1)


def test_every_callback_of_lightning_is_decided() -> None:
    assert set(callbacks.__all__) == WATCHING | CHANGING
    assert not WATCHING & CHANGING


def test_nothing_is_recorded_before_trainer_and_data_are_checked(
    micro_folder: Path, tmp_path: Path
) -> None:
    module = Calibration(str(micro_folder), RTN())
    data = CalibrationData(str(micro_folder), n_prompts=3, cache=tmp_path / "cache")
    other = CalibrationData("scenes", n_prompts=3, cache=tmp_path / "cache")
    with pytest.raises(DGQError, match="needs its DataModule"):
        trainer().fit(module, train_dataloaders=[1])
    with pytest.raises(DGQError, match=r"records calls of scenes, but .*micro is calibrated"):
        trainer().fit(module, datamodule=other)
    with pytest.raises(DGQError, match="Timer"):
        trainer(callbacks=[Timer({"hours": 1})]).fit(module, datamodule=data)
    assert not list(tmp_path.iterdir())
