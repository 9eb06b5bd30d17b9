"""Copies of a storage's content: in host memory, on its device, or on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.settings import WaitingSettings


class Copy(Protocol):
    """The content of a storage, kept somewhere else."""

    def flat(self) -> Tensor:
        """All elements, 1-D; may be read lazily."""
        ...


class HostCopy:
    """A copy in host memory."""

    def __init__(self, flat: Tensor, dtype: torch.dtype) -> None:
        self._flat = flat.to("cpu", dtype, copy=True)

    def flat(self) -> Tensor:
        """All elements, 1-D."""
        return self._flat


class DeviceCopy(HostCopy):
    """A copy of lower precision on the same device."""

    def __init__(self, flat: Tensor, dtype: torch.dtype) -> None:
        self._flat = flat.to(dtype, copy=True)


class DiskCopy:
    """A copy in a file of its own, which is deleted with it.

    Args:
        folder: an existing folder.
    """

    def __init__(self, flat: Tensor, dtype: torch.dtype, folder: Path) -> None:
        # Always a copy: memory that numpy has seen can no longer be freed.
        content = flat.to("cpu", dtype, copy=True)
        self._size, self._dtype = content.numel(), dtype
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            self._path = Path(file.name)
            try:
                # Written, not mapped: a full disk is then an error and not a signal.
                file.write(content.view(torch.uint8).numpy().data)
            except OSError as error:
                self._path.unlink()
                raise DGQError(
                    f"cannot keep waiting activations in {folder} ({error.strerror}): free some "
                    "space, use another folder (waiting.folder), or fewer samples (data.n_samples)"
                ) from error

    def flat(self) -> Tensor:
        """All elements, 1-D, read as they are used."""
        path = str(self._path)
        try:
            return torch.from_file(path, shared=False, size=self._size, dtype=self._dtype)
        except RuntimeError as error:
            if self._path.exists():
                raise
            raise DGQError(
                f"{path}, activations that waited there, was removed meanwhile"
            ) from error

    def __del__(self) -> None:
        path = getattr(self, "_path", None)
        if path is not None:
            path.unlink(missing_ok=True)


def copier(settings: WaitingSettings, folder: Path) -> Callable[[Tensor], Copy] | None:
    """What makes copies; ``None`` if tensors stay as they are."""

    def dtype_of(flat: Tensor) -> torch.dtype:
        lower = settings.dtype != "same" and flat.dtype == torch.float32
        return getattr(torch, settings.dtype) if lower else flat.dtype

    if settings.place == "disk":
        folder.mkdir(parents=True, exist_ok=True)
        return lambda flat: DiskCopy(flat, dtype_of(flat), folder)
    if settings.place == "host":
        return lambda flat: HostCopy(flat, dtype_of(flat))
    if settings.dtype != "same":
        return lambda flat: DeviceCopy(flat, dtype_of(flat))
    return None
