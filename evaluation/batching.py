"""Work in slices."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], batch_size: int) -> Iterator[list[T]]:
    """Consecutive lists of at most ``batch_size`` items (``itertools.batched`` of Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, batch_size)):
        yield batch
