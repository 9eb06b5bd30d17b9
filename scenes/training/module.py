"""A network in training: its loss, its optimizer, and what is logged."""

import logging
import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scenes.training.settings import Fit

N = TypeVar("N", bound=nn.Module)

# Lightning mentions the devices that it does not use, and advises against deliberate choices.
for _name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(_name).setLevel(logging.WARNING)
for _advice in ("does not have many workers", "exists and is not empty", "LeafSpec"):
    warnings.filterwarnings("ignore", f".*{_advice}.*")


class Training(LightningModule, ABC, Generic[N]):
    """A stage's network; a subclass defines the loss of a batch.

    Data stays outside, since the callback that averages weights copies the whole module.

    Args:
        network: network that is trained in place; parameters without gradients stay as they are.
        settings: settings of the training.
    """

    def __init__(self, network: N, settings: Fit) -> None:
        super().__init__()
        self.network: N = network
        self.settings = settings

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss of this process's share of a batch, and numbers to log."""

    def autocast(self) -> torch.autocast:
        """bfloat16 for matrix products only, twice as fast on CPUs with instructions for it.

        The Trainer's mixed precision would compute the losses in it as well.
        """
        return torch.autocast(self.device.type, torch.bfloat16)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch, logged."""
        value, numbers = self.loss(batch)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict({"loss": value.detach(), **numbers, "lr": rate})
        return value

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the gradients before they are clipped."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.log("grad_norm", nn.utils.get_total_norm(gradients))

    def configure_optimizers(self) -> Any:
        """AdamW, with a rate for each step."""
        settings = self.settings
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = AdamW(
            parameter_groups(trained, settings),
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            fused=True,
        )
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step, settings))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def rate_factor(step: int, settings: Fit) -> float:
    """The learning rate as a fraction of the highest: linear warmup, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def parameter_groups(parameters: list[nn.Parameter], settings: Fit) -> list[dict[str, Any]]:
    """Parameters with and without weight decay; by default norms and biases have none."""
    decayed = [p for p in parameters if settings.decays_norms or p.ndim > 1]
    kept = [p for p in parameters if not (settings.decays_norms or p.ndim > 1)]
    return [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
