"""Histogram of probabilities in bins of a sixteenth of an octave, without taking a logarithm.

The upper bits of a float32 are its exponent and the first digits of its mantissa: as an integer
they number the bins, and every power of two is exactly an edge.
"""

import torch
from torch import Tensor

from dgq.errors import DGQError

SHIFT = 19
PER_OCTAVE = 2 ** (23 - SHIFT)
N_BINS = 128 * PER_OCTAVE
"""Up to, but without, 2.0."""

LEAST_LOG2 = -126
"""What zeros and all below the least normal float32 count as."""


def count(probabilities: Tensor) -> Tensor:
    """How many values in ``[0, 1]``, of any shape, are in each bin, ``[N_BINS]``.

    Raises:
        DGQError: if one is not finite.
    """
    values = probabilities.float().contiguous().flatten()
    # Without the sign, which a NaN may have, what is not a probability is above the last bin.
    index = (values.view(torch.int32) >> SHIFT).bitwise_and_(2 * N_BINS - 1)
    bins = torch.bincount(index, minlength=N_BINS)
    if bins.shape[0] > N_BINS:
        raise DGQError("attention scores are not finite: the UNet's weights are damaged")
    return bins


def lower_edges() -> Tensor:
    """Where each bin begins, in log2, ``[N_BINS]``."""
    edges = (torch.arange(N_BINS, dtype=torch.int32) << SHIFT).view(torch.float32)
    return edges.double().log2().clamp(min=LEAST_LOG2)


def share_below(bins: Tensor, exponent: int) -> float:
    """Share of the values below ``2^exponent``, exact for whole exponents above LEAST_LOG2."""
    return int(bins[: (exponent + 127) * PER_OCTAVE].sum()) / int(bins.sum())


def quantile_log2(bins: Tensor, quantile: float) -> float:
    """Log2 of a quantile, rounded down to a bin's edge."""
    cumulative = bins.double().cumsum(0)
    index = torch.searchsorted(cumulative, quantile * cumulative[-1])
    return float(lower_edges()[index.clamp(max=N_BINS - 1)])


def share_by_octave(bins: Tensor) -> Tensor:
    """Share of the values in each octave ``[2^e, 2^(e + 1))``, e from -127 to 0, ``[128]``."""
    return bins.double().unflatten(0, (-1, PER_OCTAVE)).sum(1) / bins.sum()
