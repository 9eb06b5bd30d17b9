"""What a Trainer must be like to run a calibration, also one that was made in Python.

An epoch is a target and a batch is a learning step; a Trainer that counts or learns in another way
would silently make another model, or never end.
"""

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from dgq.errors import DGQError
from dgq.pipelines.sources import canonical
from lit.strategy import AveragingStrategy
from lit.trainer_options import OPTIONS, Refused

SAME = ("accumulate_grad_batches", "gradient_clip_val", "overfit_batches", "precision", "num_nodes")
"""Options whose values a Trainer keeps, and which are refused as on the command line."""

LIGHTNINGS = "lightning.pytorch.callbacks"
"""The package of Lightning's callbacks; a LightningCLI has one of its own."""

WATCHING = {
    *("Callback", "LambdaCallback", "Checkpoint", "ModelCheckpoint", "ModelSummary"),
    *("RichModelSummary", "ProgressBar", "RichProgressBar", "TQDMProgressBar"),
    *("LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor", "BasePredictionWriter"),
}
"""Lightning's callbacks that do not change what is learned, or when it ends; may be subclassed."""


def check_trainer(trainer: Trainer, n_targets: int, n_iterations: int) -> None:
    """Raise DGQError for a Trainer that would not run the calibration as it is meant.

    Args:
        trainer: the Trainer.
        n_targets: epochs of the calibration.
        n_iterations: batches of an epoch.
    """
    for name in SAME:
        rule, value = OPTIONS[name], getattr(trainer, name)
        if isinstance(rule, Refused) and not rule.accepts(value):
            raise DGQError(f"Trainer({name}={value!r}) is not supported: {rule.reason}")
    check_counts(trainer, n_targets, n_iterations)
    if not isinstance(trainer.strategy, SingleDeviceStrategy | AveragingStrategy):
        raise DGQError(
            f"{type(trainer.strategy).__name__} is not supported: several devices share the "
            "samples by Trainer(strategy=AveragingStrategy()) of lit.strategy"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        check_callback(callback)


def check_counts(trainer: Trainer, n_targets: int, n_iterations: int) -> None:
    """Raise DGQError for other numbers of epochs or batches; a trial has its own."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    needed = {"max_epochs": n_targets, "limit_train_batches": n_iterations, "max_steps": -1}
    for name, value in needed.items():
        found: Any = getattr(trainer, name)
        if found != value or not isinstance(found, int):  # 1.0 batches are all, without an end
            raise DGQError(
                f"Trainer({name}={found!r}) is not supported: an epoch is a target and a batch is "
                f"a learning step; give it {name}={value}"
            )


def check_data(trainer: Trainer, pipeline: str) -> None:
    """Raise DGQError unless there is a DataModule, and it records the calls of this pipeline."""
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise DGQError("a calibration needs its DataModule: Trainer.fit(..., datamodule=...)")
    if canonical(data.pipeline) != pipeline:
        raise DGQError(
            f"the DataModule records calls of {data.pipeline}, but {pipeline} is calibrated: give "
            "both the same pipeline"
        )


def check_callback(callback: Callback) -> None:
    """Raise DGQError for a callback that changes what is learned, or when it ends."""
    kinds = type(callback).__mro__
    kind = next(kind.__name__ for kind in kinds if kind.__module__.startswith(LIGHTNINGS))
    if kind not in WATCHING:
        raise DGQError(
            f"{type(callback).__name__} is not supported: it might change what is learned, or when "
            "it ends"
        )
