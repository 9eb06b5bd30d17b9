"""Data-parallel calibration: every process streams its own samples, and gradients are averaged."""

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed import all_reduce
from typing_extensions import override

from lit.launcher import WatchingLauncher


class AveragingStrategy(DDPStrategy):
    """Averages the gradients that exist, without DistributedDataParallel's wrapper.

    Only one target has gradients at any time. DDP would raise for all other parameters, or reduce
    zeros for every weight of the UNet in each step.
    """

    @override
    def _configure_launcher(self) -> None:
        """Start the other processes, and watch them."""
        assert self.cluster_environment is not None
        self._launcher = WatchingLauncher(self.cluster_environment, self.num_processes, 1)

    @override
    def configure_ddp(self) -> None:
        """Do not wrap the module."""

    @override
    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients over all processes, in one message."""
        parameters = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
        if not gradients:
            return
        message = torch.cat([gradient.flatten() for gradient in gradients])
        all_reduce(message)
        message /= self.world_size
        for gradient, part in zip(
            gradients, message.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))
