"""Zero points near the codes, and the ranges that have such zero points."""

import torch
from torch import Tensor


def required_range(low: Tensor, high: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    """Ranges widened just enough that their zero points stay near the codes.

    Args:
        low: minima, any shape.
        high: maxima.
        padded: whether zero is a value too and needs a code. Otherwise a range far from zero is
            widened to include half of its larger end: ``-qmax <= zero_point <= 2 qmax``.
    """
    if padded:
        return low.clamp(max=0), high.clamp(min=0)
    return torch.minimum(low, high / 2), torch.maximum(high, low / 2)


def limited_zero_point(zero_point: Tensor, n_bits: int, padded: bool) -> Tensor:
    """Zero points limited to be near the codes, or among them if zero needs a code."""
    largest = 2**n_bits - 1
    return zero_point.clamp(0, largest) if padded else zero_point.clamp(-largest, 2 * largest)


def centred_zero_point(low: Tensor, high: Tensor, scale: Tensor, n_bits: int) -> Tensor:
    """Zero points that leave as many codes free below a range as above it.

    Args:
        low: lower ends ``[steps, channels]``.
        high: upper ends.
        scale: of each channel, ``[steps, channels]``.
        n_bits: bits of the codes.

    Returns:
        ``[steps, channels]``, whole numbers.
    """
    return torch.round((2**n_bits - 1 - low / scale - high / scale) / 2)
