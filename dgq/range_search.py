"""Ranges of weights: one for each output channel, all channels at once."""

import torch
from torch import Tensor

from dgq.affine import affine_parameters, fake_quantize
from dgq.settings import RangeMethod

N_CANDIDATES = 80
SHRINK_STEP = 0.01
ERROR_EXPONENT = 2.4


def weight_range(weight: Tensor, n_bits: int, method: RangeMethod) -> tuple[Tensor, Tensor]:
    """Range of each output channel; zero always lies inside.

    Args:
        weight: ``[out, ...]``.
        n_bits: bits of the codes.
        method: ``minmax``, or ``mse`` for the best of 80 shrunk ranges.

    Returns:
        ``low``, ``high``: ``[out]``.
    """
    flat = weight.flatten(1)
    low = flat.amin(1).clamp(max=0)
    high = flat.amax(1).clamp(min=0)
    if method == "minmax":
        return low, high
    factor = best_shrink_factor(flat, low, high, n_bits)
    return low * factor, high * factor


def best_shrink_factor(rows: Tensor, low: Tensor, high: Tensor, n_bits: int) -> Tensor:
    """The first factor ``1 - 0.01 i``, ``i < 80``, with the least ``mean |Q(x) - x|^2.4`` of a row.

    Args:
        rows: ``[out, n]``.
        low: ``[out]``, lower ends of the full ranges.
        high: ``[out]``, upper ends.
        n_bits: bits of the codes.

    Returns:
        ``[out]``, each in ``[0.21, 1]``.
    """
    best_error = torch.full_like(low, torch.inf)
    best_factor = torch.ones_like(low)
    for i in range(N_CANDIDATES):
        factor = 1 - SHRINK_STEP * i
        error = quantization_error(rows, low * factor, high * factor, n_bits)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_factor = torch.where(better, torch.full_like(low, factor), best_factor)
    return best_factor


def quantization_error(rows: Tensor, low: Tensor, high: Tensor, n_bits: int) -> Tensor:
    """``mean |Q(x) - x|^2.4`` of rows ``[out, n]`` for ranges ``[out]``: ``[out]``."""
    scale, zero_point = affine_parameters(low, high, n_bits)
    quantized = fake_quantize(rows, scale[:, None], zero_point[:, None], n_bits)
    return (quantized - rows).abs_().pow_(ERROR_EXPONENT).mean(1)
