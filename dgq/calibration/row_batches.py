"""Which samples each learning step uses."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dgq.errors import SettingsError

SEEDS = 2**32
"""Seeds are smaller than this: a CPU's generator would ignore further digits."""


def row_batches(n_rows: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of row indices: one permutation of all rows after another.

    Args:
        n_rows: rows to draw from.
        batch_size: rows per batch; all rows if there are fewer.
        seed: of the permutations.
    """
    # Only full batches; otherwise processes with more samples than others would weigh less.
    batch_size = min(batch_size, n_rows)
    n_even = n_rows - n_rows % batch_size
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(n_rows, generator=generator)
        yield from order[:n_even].split(batch_size)


def seed_of_target(seed: int, target: int, rank: int = 0) -> int:
    """The seed of the batches at one target, given by its index, in one process."""
    return seed * 1_000_003 + rank * 10_007 + target


def check_seed(name: str, seed: int) -> None:
    """Raise SettingsError for a seed outside its domain."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise SettingsError(f"{name} must be 0 to {SEEDS - 1}, got {seed!r}")
