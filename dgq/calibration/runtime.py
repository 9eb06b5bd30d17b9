"""Where a calibration computes: device, precision, and processes that share the samples."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

Call = Mapping[str, Any]
"""Keyword arguments of one call of a UNet."""

Reduction = Literal["sum", "min", "max"]


class Runtime:
    """A single process that computes in the precision of its tensors.

    Args:
        device: device of the UNet and the samples.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def device(self) -> torch.device:
        """Where the UNet and the samples are."""
        return self._device

    def precision(self) -> AbstractContextManager[Any]:
        """Context that surrounds all computations."""
        return nullcontext()

    def reduce(self, tensor: Tensor, reduction: Reduction) -> Tensor:
        """A tensor's sum, minimum or maximum over all processes, element by element."""
        return tensor


def to_device(value: Any, device: torch.device) -> Any:
    """Nested arguments with their tensors on a device."""
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value
