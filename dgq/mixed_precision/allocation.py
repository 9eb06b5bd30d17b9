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
    starts = _along(noise, relative, weightings(len(budgets)))
    starts = torch.cat([starts, _alike(noise, relative)]).unique(dim=0)
    if not len(starts):
        raise DGQError(
            "no choice of bits stays within the budget: allow fewer bits, or raise the average"
        )
    chosen = _spend_rest(noise, relative, starts)
    return chosen[_of(noise, chosen).sum(1).argmin()]


def weightings(n: int) -> Tensor:
    """All weights of ``n`` budgets that are multiples of an eighth and add up to 1: ``[*, n]``."""
    parts = [p for p in product(range(N_PARTS + 1), repeat=n) if sum(p) == N_PARTS]
    return torch.tensor(parts, dtype=torch.float64) / N_PARTS


def _alike(noise: Tensor, costs: Tensor) -> Tensor:
    """The best option that fits if all items use the same: ``[1, items]``, or ``[0, items]``."""
    fits = (costs.sum(0) <= WHOLE).all(-1)
    total = torch.where(fits, noise.sum(0), torch.inf)
    found = total.argmin().expand(1, len(noise))
    return found[total.isfinite().any().expand(1)]


def _along(noise: Tensor, costs: Tensor, weights: Tensor) -> Tensor:
    """The choices at the smallest fitting multipliers of weighted costs, ``[fitting, items]``.

    Args:
        noise: ``[items, options]``.
        costs: ``[items, options, budgets]``.
        weights: of the budgets, ``[weightings, budgets]``.
    """
    weighted = torch.einsum("iob,wb->wio", costs, weights)
    unit = float(noise[noise.isfinite()].max().clamp(min=torch.finfo(torch.float64).tiny))

    def choice(exponents: Tensor) -> Tensor:
        return (noise / unit + weighted * exponents.exp2()[:, None, None]).argmin(-1)

    high = weights.new_full((len(weights),), LARGEST_EXPONENT)
    low, fitting = -high, _fits(costs, choice(high))
    for _ in range(N_HALVINGS):
        middle = (low + high) / 2
        fits = _fits(costs, choice(middle))
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    return choice(high)[fitting]


def _spend_rest(noise: Tensor, costs: Tensor, chosen: Tensor) -> Tensor:
    """Change items one at a time, taking the largest gain per cost, as long as a change fits.

    Args:
        noise: ``[items, options]``.
        costs: ``[items, options, budgets]``.
        chosen: where to start from, ``[starts, items]``; each goes its own way.
    """
    chosen, n_options = chosen.clone(), noise.shape[1]
    gain = _of(noise, chosen)[..., None] - noise
    added = (costs - _of(costs, chosen)[..., None, :]).movedim(-1, 0).contiguous()
    worth = _worth(gain, added)
    while True:
        room = (WHOLE - _of(costs, chosen).sum(1)).T
        fits = (added <= room[..., None, None]).all(0)
        largest, best = torch.where(fits & (worth > 0), worth, 0.0).flatten(1).max(1)
        going = (largest > 0).nonzero()[:, 0]
        if not len(going):
            return chosen
        item, option = best[going] // n_options, best[going] % n_options
        chosen[going, item] = option
        gain = noise[item, option][:, None] - noise[item]
        change = (costs[item] - costs[item, option][:, None]).movedim(-1, 0)
        added[:, going, item], worth[going, item] = change, _worth(gain, change)


def _worth(gain: Tensor, added: Tensor) -> Tensor:
    """Gains ``[...]`` per largest share of a budget that is added, of shares ``[budgets, ...]``."""
    return gain / added.clamp(min=1e-12).amax(0)


def _fits(costs: Tensor, chosen: Tensor) -> Tensor:
    """Whether choices ``[n, items]`` stay within all budgets, ``[n]``."""
    return (_of(costs, chosen).sum(1) <= WHOLE).all(-1)


def _of(values: Tensor, chosen: Tensor) -> Tensor:
    """Each item's value of its option, ``[n, items, ...]``, for choices ``[n, items]``."""
    return values[torch.arange(len(values)), chosen]
