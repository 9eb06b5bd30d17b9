"""Batches that depend only on seed and step, so that runs can resume and processes share them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule
from torch.utils.data import IterableDataset

Draw = Callable[[torch.Generator], Any]
"""Draws a batch; if several processes share it, the rows given by ``rows_of_process``."""


class Batches(IterableDataset[Any]):
    """Endless batches, starting at the current step of a training.

    Args:
        draw: makes a batch.
        seed: seed of the training.
        training: training whose step counts.
    """

    def __init__(self, draw: Draw, seed: int, training: LightningModule) -> None:
        self.draw = draw
        self.seed = seed
        self.training = training

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that the step is read at the first batch: a resumed Trainer makes its
        # iterators before it knows the step.
        step = self.training.global_step
        while True:
            yield self.draw(generator_of(self.seed, step))
            step += 1


def generator_of(seed: int, step: int) -> torch.Generator:
    """The generator of a step's batch, the same in all processes."""
    return torch.Generator().manual_seed(seed * 10_000_019 + step)


def rows_of_process(n: int) -> slice:
    """The rows of a batch of `n` that are this process's share."""
    if not dist.is_initialized():
        return slice(0, n)
    return slice(dist.get_rank(), n, dist.get_world_size())
