"""Rows out of arguments that are stored micro-batch by micro-batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dgq.streaming import TargetInput


def gather_inputs(inputs: Sequence[TargetInput], rows: Tensor) -> TargetInput:
    """The arguments of a target for some samples.

    Args:
        inputs: of all micro-batches, in order.
        rows: ``[n]``, indices of samples over all micro-batches.

    Returns:
        Arguments in which each tensor with a batch dimension holds the rows asked for.
    """
    places = places_of(rows, [item.step.shape[0] for item in inputs])

    def pick(values: Sequence[Any]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        return pick_rows(values, places)

    args = tuple(pick([i.args[k] for i in inputs]) for k in range(len(inputs[0].args)))
    kwargs = {key: pick([i.kwargs[key] for i in inputs]) for key in inputs[0].kwargs}
    return TargetInput(args, kwargs, pick_rows([i.step for i in inputs], places))


def gather_rows(parts: Sequence[Tensor], rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """``torch.cat(parts)[rows]`` without the concatenation."""
    return pick_rows(parts, places_of(rows, sizes))


def places_of(rows: Tensor, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Part and position in it of each row, for parts of these sizes."""
    ends = torch.tensor(sizes).cumsum(0)
    part = torch.searchsorted(ends, rows, right=True)
    position = rows - (ends - torch.tensor(sizes))[part]
    return list(zip(part.tolist(), position.tolist(), strict=True))


def pick_rows(parts: Sequence[Tensor], places: Sequence[tuple[int, int]]) -> Tensor:
    """The rows at these places, stacked."""
    return torch.stack([parts[part][position] for part, position in places])
