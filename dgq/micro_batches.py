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
    sizes = [item.step.shape[0] for item in inputs]

    def pick(values: Sequence[Any]) -> Any:
        if not isinstance(values[0], Tensor):
            return values[0]
        return gather_rows(values, rows, sizes)

    args = tuple(pick([i.args[k] for i in inputs]) for k in range(len(inputs[0].args)))
    kwargs = {key: pick([i.kwargs[key] for i in inputs]) for key in inputs[0].kwargs}
    return TargetInput(args, kwargs, gather_rows([i.step for i in inputs], rows, sizes))


def gather_rows(parts: Sequence[Tensor], rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """``torch.cat(parts)[rows]`` without the concatenation."""
    ends = torch.tensor(sizes).cumsum(0)
    part_of = torch.searchsorted(ends, rows, right=True)
    starts = ends - torch.tensor(sizes)
    picked = [parts[p][r - starts[p]] for p, r in zip(part_of.tolist(), rows.tolist(), strict=True)]
    return torch.stack(picked)
