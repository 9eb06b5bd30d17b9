"""Training of every network: a Lightning fit whose only epoch contains all steps.

Everything is scheduled by steps, so that a run gives the same weights on machines of any speed.
Several processes share each batch and average their gradients.
"""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch.utils.data import DataLoader

from scenes.training.batches import Batches, Draw
from scenes.training.callbacks import LastCheckpoint, LoggedTime, RunningAverage, Snapshots
from scenes.training.checkpoints import (
    CHECKPOINT,
    DONE,
    AtomicCheckpointIO,
    read_average,
    refuse_existing,
)
from scenes.training.log import N_LINES, logger
from scenes.training.module import Training


def fit(
    training: Training[Any], draw: Draw, folder: Path, device: str, resume: bool, processes: int = 1
) -> None:
    """Train a network in place and leave its averaged (else its last) weights in it.

    Writes a log, snapshots and a checkpoint into `folder`. With `resume`, a checkpoint found there
    is continued, or only loaded if it is complete. With several processes the weights are only in
    the checkpoint.

    Raises:
        FileExistsError: there is a checkpoint, and `resume` is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_existing(folder, resume)
    checkpoint = folder / CHECKPOINT
    if not is_complete(checkpoint, training.settings.steps):
        training.network.train()
        batches = Batches(draw, training.settings.seed, training)
        make_trainer(training, folder, device, processes).fit(
            training,
            DataLoader(batches, batch_size=None),
            ckpt_path=str(checkpoint) if checkpoint.exists() else None,
            weights_only=True,
        )
    if processes == 1:
        read_average(checkpoint, training.network)
    (folder / DONE).touch()


def is_complete(checkpoint: Path, steps: int) -> bool:
    """Whether a checkpoint is that of the last step."""
    if not checkpoint.exists():
        return False
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return bool(state["global_step"] >= steps)


def make_trainer(training: Training[Any], folder: Path, device: str, processes: int) -> Trainer:
    """The Trainer for all steps."""
    settings = training.settings
    average = RunningAverage(settings.ema_decay) if settings.ema_decay else None
    callbacks: list[Callback] = [] if average is None else [average]
    callbacks += [Snapshots(settings.snapshots, folder, average), LoggedTime()]
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=processes,
        strategy="auto" if processes == 1 else "ddp_spawn",
        max_steps=settings.steps,
        gradient_clip_val=1.0,
        logger=logger(folder),
        log_every_n_steps=max(settings.steps // N_LINES, 1),
        callbacks=[*callbacks, RichProgressBar(leave=True), LastCheckpoint(folder)],
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
    )
