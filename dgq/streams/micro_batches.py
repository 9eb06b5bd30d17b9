"""Rows of arguments that are stored by micro-batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dgq.streams.waiting import tensors_in

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

    def pick(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return pick_rows(values, places, read)
        if isinstance(first, Mapping):
            return {key: pick([value[key] for value in values]) for key in first}
        if any(True for _ in tensors_in(first)):
            raise TypeError("a target was called with a list of tensors, which are not gathered")
        return first

    args = tuple(pick([i.args[k] for i in inputs]) for k in range(len(inputs[0].args)))
    kwargs = pick([i.kwargs for i in inputs])
    return TargetInput(args, kwargs, pick([i.step for i in inputs]))


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
