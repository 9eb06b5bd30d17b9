"""Large arrays on disk that are written once and then memory-mapped."""

import os
from pathlib import Path

import numpy as np

from scenes.training.checkpoints import DONE

CHUNK = 1000
"""How many captions are computed at a time."""


def create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new float16 array at `path`, to be filled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        os.remove(path)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def open_array(path: Path) -> np.ndarray:
    """Open an array copy-on-write: torch wants writable memory, but the file stays unchanged."""
    array: np.ndarray = np.load(path, mmap_mode="c")
    return array


def mark_done(folder: Path, *arrays: np.memmap) -> None:
    """Flush the arrays and mark `folder` as complete."""
    for array in arrays:
        array.flush()
    (folder / DONE).touch()


def is_done(folder: Path) -> bool:
    """Whether the arrays in `folder` are complete."""
    return (folder / DONE).exists()
