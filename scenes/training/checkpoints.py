"""Files of a training: its checkpoint, snapshots of its weights, and the mark of its end."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

CHECKPOINT = "last.ckpt"
DONE = "done"
"""Name of the file that marks a folder as complete."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside a file's place and moves it there; Lightning's own may leave partial files."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        new = Path(path).with_suffix(".new")
        torch.save(checkpoint, new)
        os.replace(new, path)


def refuse_existing(folder: Path, resume: bool) -> None:
    """Raise FileExistsError if `folder` holds a training and `resume` is not set."""
    if (folder / CHECKPOINT).exists() and not resume:
        raise FileExistsError(
            f"{folder} holds a training already; continue it with --resume, or remove it"
        )


def read_average(path: Path, network: nn.Module) -> None:
    """Load a checkpoint's averaged weights into a network, or its last if there is no average."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("network."): t for name, t in state.items()})


def snapshot_name(step: int) -> str:
    """Name of the file that holds the weights of a step."""
    return f"step-{step:06d}.safetensors"
