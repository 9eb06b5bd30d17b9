"""Ranges of weights: one for each output channel, all channels at once."""

from typing import Literal

import torch
from torch import Tensor

from dgq.math.affine import affine_parameters, symmetric_parameters
from dgq.math.cached_rows import cached_rows

RangeMethod = Literal["minmax", "mse"]

N_CANDIDATES = 80
SHRINK_STEP = 0.01
ERROR_EXPONENT = 2.4


def weight_parameters(
    low: Tensor, high: Tensor, n_bits: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of output channels with these ranges, all ``[out]``."""
    parameters = symmetric_parameters if symmetric else affine_parameters
    return parameters(low, high, n_bits)


def weight_range(
    weight: Tensor, n_bits: int, method: RangeMethod, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """Range of each output channel; zero always lies inside.

    Args:
        weight: ``[out, ...]``.
        n_bits: bits of the codes.
        method: ``minmax``, or ``mse`` for the best of 80 shrunk ranges.
        symmetric: the zero point is fixed in the middle of the codes.

    Returns:
        ``low``, ``high``: ``[out]``.
    """
    flat = weight.flatten(1)
    low = flat.amin(1).clamp(max=0)
    high = flat.amax(1).clamp(min=0)
    if method == "minmax":
        return low, high
    factor = best_shrink_factor(flat, low, high, n_bits, symmetric)
    return low * factor, high * factor


def best_shrink_factor(
    rows: Tensor, low: Tensor, high: Tensor, n_bits: int, symmetric: bool
) -> Tensor:
    """The first factor ``1 - 0.01 i``, ``i < 80``, with the least ``mean |Q(x) - x|^2.4`` of a row.

    Args:
        rows: ``[out, n]``.
        low: ``[out]``, lower ends of the full ranges.
        high: ``[out]``, upper ends.
        n_bits: bits of the codes.
        symmetric: the zero point is fixed in the middle of the codes.

    Returns:
        ``[out]``, each in ``[0.21, 1]``.
    """
    # Rows are independent: blocks of them stay in the cache while all candidates are tried.
    n_rows = cached_rows(rows.shape[0], rows.shape[1], rows.device)
    parts = zip(rows.split(n_rows), low.split(n_rows), high.split(n_rows), strict=True)
    return torch.cat([_best_factor_of(*part, n_bits, symmetric) for part in parts])


def _best_factor_of(
    rows: Tensor, low: Tensor, high: Tensor, n_bits: int, symmetric: bool
) -> Tensor:
    best_error, best_factor = torch.full_like(low, torch.inf), torch.ones_like(low)
    unit, _ = weight_parameters(low, high, n_bits, symmetric)
    for i in range(N_CANDIDATES):
        factor = 1 - SHRINK_STEP * i
        error = quantization_error(rows, low * factor, high * factor, unit, n_bits, symmetric)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_factor = torch.where(better, torch.full_like(low, factor), best_factor)
    return best_factor


def quantization_error(
    rows: Tensor, low: Tensor, high: Tensor, unit: Tensor, n_bits: int, symmetric: bool
) -> Tensor:
    """``mean |(Q(x) - x) / unit|^2.4`` of rows ``[out, n]``, with ranges and units ``[out]``.

    Written out, because ``fake_quantize`` allocates a tensor per operation. In units of a scale,
    because the power of a small one underflows float32: channels of weights around 1e-20 are
    common, and not every device has float64.
    """
    scale, zero_point = weight_parameters(low, high, n_bits, symmetric)
    ratio = rows / scale[:, None]
    lowest = -zero_point[:, None]
    error = ratio.round().clamp_(lowest, lowest + 2**n_bits - 1).sub_(ratio).abs_()
    return error.pow_(ERROR_EXPONENT).mean(1) * (scale / unit).pow(ERROR_EXPONENT)
