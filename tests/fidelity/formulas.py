"""The published formulas once more, in plain Python and in double precision.

Written from the papers and from ``docs/explanation/method.md``, one number at a time, without a
look at how ``dgq`` computes them. ``round`` of Python rounds halves to even, as formulas want it.
"""

import math
from collections.abc import Sequence

Row = Sequence[float]


def quantized(x: float, scale: float, zero_point: float, n_bits: int) -> float:
    """Affine fake quantization of one number."""
    return scale * (code_of(x, scale, zero_point, n_bits) - zero_point)


def code_of(x: float, scale: float, zero_point: float, n_bits: int) -> float:
    """The code of one number."""
    return min(max(round(x / scale) + zero_point, 0), 2**n_bits - 1)


def span(low: float, high: float, n_bits: int) -> tuple[float, float]:
    """Scale and zero point of a range; scale 1 where it is a point at zero."""
    scale = (high - low) / (2**n_bits - 1) or 1.0
    return scale, round(-low / scale)


def minmax_range(row: Row) -> tuple[float, float]:
    """Least and largest value, and zero."""
    return min(*row, 0.0, 0.0), max(*row, 0.0, 0.0)


def search_error(row: Row, low: float, high: float, n_bits: int) -> float:
    """``mean |Q(x) - x|^2.4`` under a range."""
    scale, zero_point = span(low, high, n_bits)
    return sum(abs(quantized(x, scale, zero_point, n_bits) - x) ** 2.4 for x in row) / len(row)


def search_errors(row: Row, n_bits: int) -> list[float]:
    """The error of each of the 80 candidates, the full range first."""
    low, high = minmax_range(row)
    factors = [1 - 0.01 * i for i in range(80)]
    return [search_error(row, low * f, high * f, n_bits) for f in factors]


def rectified_sigmoid(v: float) -> float:
    """AdaRound's ``h(v)`` (eq. 23): zeta = 1.1, gamma = -0.1."""
    return min(max(1.2 / (1 + math.exp(-v)) - 0.1, 0.0), 1.0)


def rounding_penalty(h: Row, temperature: float) -> float:
    """AdaRound's regularizer (eq. 24)."""
    return sum(1 - abs(2 * x - 1) ** temperature for x in h)


def brecq_temperature(count: int, n_iterations: int, warmup: float) -> float | None:
    """BRECQ's linear decay, ``count`` of the call from 1; ``None`` before the penalty begins."""
    start = warmup * n_iterations
    if count < start:
        return None
    return 2 + (20 - 2) * max(0.0, 1 - (count - start) / (n_iterations - start))


def log_score(p: float, d: float, n_bits: int) -> float:
    """DGQ's logarithmic score; zero stays zero (docs/explanation/fidelity.md)."""
    if p == 0:
        return 0.0
    return d * 2.0 ** -min(max(round(-math.log2(p / d)), 0), 2**n_bits - 1)


def spread(low: Row, high: Row) -> float:
    """DGQ's measure of how much the ranges of an axis differ, at one step."""
    return (max(high) - min(high)) + (max(low) - min(low))
