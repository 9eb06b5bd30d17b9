"""The device, precision and processes that a Trainer gives to a calibration."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from dgq.calibration.runtime import Reduction, Runtime


class TrainerRuntime(Runtime):
    """Device, precision and processes of a Trainer.

    Args:
        trainer: the Trainer that runs the calibration.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.trainer.strategy.root_device

    def precision(self) -> AbstractContextManager[Any]:
        """Context that the Trainer uses around each step."""
        return self.trainer.precision_plugin.forward_context()

    def reduce(self, tensor: Tensor, reduction: Reduction) -> Tensor:
        """Reduce a tensor over all processes of the Trainer."""
        return self.trainer.strategy.reduce(tensor, reduce_op=reduction)
