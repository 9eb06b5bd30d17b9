"""Where a calibration computes: device, precision, and processes that share the samples."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dgq.settings import check_choice

Reduction = Literal["sum", "min", "max"]
Precision = Literal["32-true", "bf16-mixed"]
"""Of a calibration's computations, named as Lightning names them: float32, or bfloat16 where
``torch.autocast`` uses it. Weights, ranges and scales are in float32 in both."""


class Runtime:
    """A single process.

    Args:
        device: device of the UNet and the samples.
        precision: of all computations.

    Raises:
        SettingsError: for another precision.
    """

    def __init__(self, device: torch.device, precision: Precision = "32-true") -> None:
        check_choice("precision", precision, get_args(Precision))
        self._device = device
        self._in_bfloat16 = precision == "bf16-mixed"

    @property
    def device(self) -> torch.device:
        """Where the UNet and the samples are."""
        return self._device

    def precision(self) -> AbstractContextManager[Any]:
        """Context that surrounds all computations."""
        if not self._in_bfloat16:
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def reduce(self, tensor: Tensor, reduction: Reduction) -> Tensor:
        """A tensor's sum, minimum or maximum over all processes, element by element."""
        return tensor
