"""Allocation of bits: the least noise within several budgets, such as size and operations."""

from itertools import product

import torch
from torch import Tensor

from dgq.errors import DGQError

N_PARTS = 8
"""Weightings of the budgets are searched in multiples of one eighth."""

N_HALVINGS = 32
"""Halvings of the interval of multipliers, for each weighting."""

LARGEST_EXPONENT = 60.0
"""Multipliers run from ``2^-60`` to ``2^60`` of the largest noise."""


WHOLE = 1 + 1e-12
"""Fraction of a budget that may be spent; above 1 because exact shares may sum to slightly more."""


def allocate(noise: Tensor, costs: Tensor, budgets: Tensor) -> Tensor:
    """Choose an option per item: least total noise with total costs within all budgets.

    With a Lagrange multiplier for each budget, every item chooses independently. The ratios of the
    multipliers are searched on a grid and their size by bisection; the rest of the budgets is then
    spent where a change gains the most. The result is never worse than one option for all, where
    that fits.

    Args:
        noise: of each option, ``[items, options]``; infinite where there is no such option.
        costs: of each option under each budget, ``[items, options, budgets]``.
        budgets: ``[budgets]``, positive.

    Returns:
        Index of each item's option, ``[items]``.

    Raises:
        DGQError: if the cheapest options exceed a budget.
    """
    relative = costs.double() / budgets.double()
    noise = noise.double()
    starts = [_along(noise, relative, weights) for weights in weightings(len(budgets))]
    starts.append(_alike(noise, relative))
    distinct = {tuple(start.tolist()): start for start in starts if start is not None}
    chosen = [_spend_rest(noise, relative, start) for start in distinct.values()]
    if not chosen:
        raise DGQError(
            "no choice of bits stays within the budget: allow fewer bits, or raise the average"
        )
    return min(chosen, key=lambda options: float(_of(noise, options).sum()))


def weightings(n: int) -> Tensor:
    """All weights of ``n`` budgets that are multiples of an eighth and add up to 1: ``[*, n]``."""
    parts = [p for p in product(range(N_PARTS + 1), repeat=n) if sum(p) == N_PARTS]
    return torch.tensor(parts, dtype=torch.float64) / N_PARTS


def _alike(noise: Tensor, costs: Tensor) -> Tensor | None:
    """The best option that fits if all items use the same, if any does."""
    fits = (costs.sum(0) <= WHOLE).all(-1)
    total = torch.where(fits, noise.sum(0), torch.inf)
    return total.argmin().expand(len(noise)) if bool(total.isfinite().any()) else None


def _along(noise: Tensor, costs: Tensor, weights: Tensor) -> Tensor | None:
    """The choices at the smallest fitting multiplier of the weighted costs, if any fits."""
    weighted = (costs * weights).sum(-1)
    unit = float(noise[noise.isfinite()].max().clamp(min=torch.finfo(torch.float64).tiny))

    def choice(exponent: float) -> Tensor:
        multiplier: float = 2.0**exponent
        return (noise / unit + weighted * multiplier).argmin(1)

    low, high = -LARGEST_EXPONENT, LARGEST_EXPONENT
    if not _fits(costs, choice(high)):
        return None
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(costs, choice(middle)) else (middle, high)
    return choice(high)


def _spend_rest(noise: Tensor, costs: Tensor, chosen: Tensor) -> Tensor:
    """Change items one at a time, taking the largest gain per cost, as long as a change fits."""
    chosen = chosen.clone()
    gain = _of(noise, chosen)[:, None] - noise
    added = costs - _of(costs, chosen)[:, None]
    worth = gain / added.clamp(min=1e-12).amax(-1)
    while True:
        room = WHOLE - _of(costs, chosen).sum(0)
        possible = (gain > 0) & (added <= room).all(-1)
        if not bool(possible.any()):
            return chosen
        best = int(torch.where(possible, worth, -torch.inf).argmax())
        item, option = divmod(best, noise.shape[1])
        chosen[item] = option
        gain[item] = noise[item, option] - noise[item]
        added[item] = costs[item] - costs[item, option]
        worth[item] = gain[item] / added[item].clamp(min=1e-12).amax(-1)


def _fits(costs: Tensor, chosen: Tensor) -> bool:
    return bool((_of(costs, chosen).sum(0) <= WHOLE).all())


def _of(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen option's value of each item, ``[items, ...]``."""
    return values[torch.arange(len(chosen)), chosen]
