"""Modules whose buffers keep their precision and take their sizes from a checkpoint."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dgq.buffers import SizedByCheckpoint


class ExactBuffers(SizedByCheckpoint):
    """``.to(dtype)``, ``.half()`` and alike move the buffers and never round them.

    Scales rounded to 16 bits would be other scales.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda tensor: exactly(fn, tensor), recurse)


def exactly(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """``fn(tensor)``, a copy or a conversion, without the change of precision."""
    moved = fn(tensor)
    return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
