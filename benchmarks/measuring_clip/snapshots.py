"""Snapshots that a training has left in its folder."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from benchmarks.unet_weights import load_weights_
from dgq.errors import DGQError


def find_snapshots(folder: Path) -> dict[int, Path]:
    """Files of snapshots by their step, ascending."""
    matches = ((re.fullmatch(r"step-(\d+)\.safetensors", p.name), p) for p in folder.glob("*"))
    found = {int(match[1]): path for match, path in matches if match}
    if not found:
        raise DGQError(
            f"--snapshots {folder} holds no step-*.safetensors, as "
            "`python -m scenes.training diffusion` writes them into its folder"
        )
    return dict(sorted(found.items()))


def last_step(folder: Path) -> int:
    """How long the training of a folder went on."""
    try:
        return int(json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DGQError(
            f"{folder}/log.jsonl does not tell the last step ({error}): give --final-step"
        ) from error


def load_in_turn_(unet: nn.Module, snapshots: Mapping[int, Path], final_step: int) -> Iterator[int]:
    """Put the weights of each snapshot, then the UNet's own again, into it; gives their steps."""
    own = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    for step, path in snapshots.items():
        load_weights_(unet, path)
        yield step
    unet.load_state_dict(own)
    yield final_step
