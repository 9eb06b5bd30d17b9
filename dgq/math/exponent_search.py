"""Exponents: scales that differ by powers of two, chosen from ranges or magnitudes."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

N_PHASES = 64
"""Number of base scales that are tried within a factor of two."""


def channel_exponents(width: Tensor, max_exponent: int) -> Tensor:
    """One exponent for each channel, for all steps.

    A channel needs ``width / widest`` at each step; the largest of these values counts. The error
    assumes that the base scale of each step is as tight as the exponents allow.

    Args:
        width: ``[steps, channels]``, not negative; the range of codes that each channel needs.
        max_exponent: exponents run from 0 to this.

    Returns:
        ``[channels]``, uint8. Channels without any width get ``max_exponent``.
    """
    relative = relative_to_largest(width)

    def error(exponent: Tensor) -> Tensor:
        base = (relative * exponent.exp2()).amax(1)
        return base.square().sum() * (-2 * exponent).exp2().sum(1, keepdim=True)

    return best_exponents(relative.amax(0, keepdim=True), max_exponent, error)[0]


def group_exponents(rows: Tensor, group_size: int, max_exponent: int) -> Tensor:
    """An exponent for each group of a weight's inputs, separately for every output channel.

    A group needs its largest magnitude relative to that of its channel.

    Args:
        rows: weights ``[out, n]``.
        group_size: inputs in a group; the last one may have fewer.
        max_exponent: exponents run from 0 to this.

    Returns:
        ``[out, ceil(n / group_size)]``, uint8.
    """
    padding = -rows.shape[1] % group_size
    groups = F.pad(rows.abs(), (0, padding)).unflatten(1, (-1, group_size))
    relative = relative_to_largest(groups.amax(2))

    def error(exponent: Tensor) -> Tensor:
        base = (relative * exponent.exp2()).amax(1, keepdim=True)
        return base.square() * (-2 * exponent).exp2().sum(1, keepdim=True)

    return best_exponents(relative, max_exponent, error)


def best_exponents(needed: Tensor, max_exponent: int, error: Callable[[Tensor], Tensor]) -> Tensor:
    """Exponents for the base scale ``2^(i / N_PHASES)`` with the least error; the first on ties.

    Args:
        needed: ``[rows, members]``, the scale that each member needs; the largest of a row is 1.
        max_exponent: exponents run from 0 to this.
        error: maps exponents ``[rows, members]`` to the sum of squared scales, ``[rows, 1]``.

    Returns:
        ``[rows, members]``, uint8.
    """
    bases = (2 ** (i / N_PHASES) for i in range(N_PHASES))
    candidates = (exponents_at(needed, base, max_exponent) for base in bases)
    return least_error(candidates, error).to(torch.uint8)


def least_error(candidates: Iterable[Tensor], error: Callable[[Tensor], Tensor]) -> Tensor:
    """The candidate with the least error, the first on ties, separately for each row.

    Args:
        candidates: tensors of one shape.
        error: maps a candidate to its error, broadcastable to its shape.
    """
    rest = iter(candidates)
    best = next(rest)
    least = error(best)
    for candidate in rest:
        found = error(candidate)
        best = torch.where(found < least, candidate, best)
        least = torch.minimum(found, least)
    return best


def relative_to_largest(values: Tensor) -> Tensor:
    """Values ``[rows, members]`` relative to the largest of their row; zeros for rows of zeros."""
    largest = values.amax(1, keepdim=True)
    return torch.where(largest > 0, values / largest, torch.zeros_like(values))


def exponents_at(needed: Tensor, base: float, max_exponent: int) -> Tensor:
    """The largest exponents with ``base * 2^-exponent >= needed``, of 0 to ``max_exponent``.

    Args:
        needed: scales, any shape, in ``[0, 1]``.
        base: scale of exponent 0.
        max_exponent: at least 0.
    """
    return (base / needed).log2().floor().clamp(0, max_exponent)


def base_scale(width: Tensor, exponent: Tensor, n_bits: int) -> Tensor:
    """The least base scale of each step that covers all its channels: ``[steps]``.

    Args:
        width: ``[steps, channels]``.
        exponent: ``[channels]``.
        n_bits: bits of the codes.
    """
    scale = (width * exponent.float().exp2()).amax(1) / (2**n_bits - 1)
    smallest = torch.finfo(scale.dtype).tiny * 2.0 ** int(exponent.max())
    return torch.where(scale > 0, scale.clamp(min=smallest), torch.ones_like(scale))
