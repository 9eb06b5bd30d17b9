"""Callbacks of a training: running average, snapshots, checkpoints, time."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer, WeightAveraging
from safetensors.torch import save_file
from torch import Tensor

from scenes.training.checkpoints import CHECKPOINT, snapshot_name

TIME_BETWEEN_CHECKPOINTS = timedelta(seconds=90)


class RunningAverage(WeightAveraging):
    """An exponential average of the weights.

    Args:
        decay: decay of the average; smaller in the first steps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, avg_fn=partial(averaged, decay))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, by the names of the training's parameters."""
        assert self._average_model is not None
        return dict(self._average_model.module.named_parameters())


def averaged(decay: float, mean: Tensor, new: Tensor, n_averaged: Tensor) -> Tensor:
    """The average updated with new weights; it forgets the first steps sooner."""
    step = int(n_averaged) + 1
    return mean.lerp(new, 1 - min(decay, (1 + step) / (10 + step)))


class Snapshots(Callback):
    """Saves the network's weights at some steps, averaged if there is an average.

    Args:
        steps: steps whose weights are saved.
        folder: folder of the files.
        average: the average, if there is one; it comes before this among the callbacks.
    """

    def __init__(
        self, steps: tuple[int, ...], folder: Path, average: RunningAverage | None
    ) -> None:
        self.steps = steps
        self.folder = folder
        self.average = average

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_arguments: Any
    ) -> None:
        """Write the weights if this is one of the steps."""
        if trainer.global_step not in self.steps or not trainer.is_global_zero:
            return
        weights = self.average.weights if self.average else dict(pl_module.named_parameters())
        tensors = {
            name.removeprefix("network."): weight.detach().half().contiguous()
            for name, weight in weights.items()
        }
        save_file(tensors, self.folder / snapshot_name(trainer.global_step))


class LastCheckpoint(ModelCheckpoint):
    """Saves the latest state at intervals and at the end.

    Args:
        folder: folder of the file.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename=Path(CHECKPOINT).stem,
            train_time_interval=TIME_BETWEEN_CHECKPOINTS,
            enable_version_counter=False,
        )
        self.path = folder / CHECKPOINT

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state: the only epoch is the whole training."""
        trainer.save_checkpoint(self.path)


class LoggedTime(Timer):
    """Logs the seconds of training, including those before it was resumed."""

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any, **keywords: Any) -> None:
        """Log the seconds so far."""
        assert trainer.lightning_module is not None
        trainer.lightning_module.log("seconds", torch.tensor(self.time_elapsed()))
