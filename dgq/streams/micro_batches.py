"""Rows of arguments that are stored by micro-batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgq.unet.call_rows import each_tensor

ReadRow = Callable[[int, Tensor, int], Tensor]
"""Reads a row: takes the index of a part, the part, and a position in it."""


class TargetInput(NamedTuple):
    """Arguments with which a micro-batch calls a target, and the steps of its samples."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    step: Tensor


def read_row(_part: int, tensor: Tensor, position: int) -> Tensor:
    """The row of a part that is in memory."""
    return tensor[position]


def gather_inputs(
    inputs: Sequence[TargetInput], rows: Tensor, read: ReadRow = read_row
) -> TargetInput:
    """The arguments of a target for some samples.

    Args:
        inputs: inputs of all micro-batches, in order.
        rows: ``[n]``, indices of samples over all micro-batches.
        read: function that reads a row.

    Returns:
        Arguments whose tensors with a batch dimension hold the requested rows.
    """
    places = places_of(rows, [item.step.shape[0] for item in inputs])

    def picked(parts: Sequence[Tensor]) -> Tensor:
        return pick_rows(parts, places, read)

    return TargetInput(
        each_tensor([item.args for item in inputs], picked),
        each_tensor([item.kwargs for item in inputs], picked),
        picked([item.step for item in inputs]),
    )


def places_of(rows: Tensor, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The part, and the position in it, of each row, for parts of these sizes."""
    ends = torch.tensor(sizes).cumsum(0)
    part = torch.searchsorted(ends, rows, right=True)
    position = rows - (ends - torch.tensor(sizes))[part]
    return list(zip(part.tolist(), position.tolist(), strict=True))


def pick_rows(
    parts: Sequence[Tensor], places: Sequence[tuple[int, int]], read: ReadRow = read_row
) -> Tensor:
    """The rows at these places, stacked: ``torch.cat(parts)[rows]`` without concatenating."""
    return torch.stack([read(part, parts[part], position) for part, position in places])
