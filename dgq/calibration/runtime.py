"""Where a calibration computes: device, precision, and processes that share the samples."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

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
