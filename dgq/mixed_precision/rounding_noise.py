"""Size of the rounding error of weights and inputs, estimated before anything is rounded."""

import torch
from torch import Tensor

from dgq.math.dequantization import input_factors
from dgq.math.exponent_search import group_exponents, relative_to_largest
from dgq.math.multiples import finest_scale, possible_multiples
from dgq.math.range_search import weight_parameters
from dgq.math.zero_points import required_range
from dgq.quantizers.observer import Ranges
from dgq.settings import ActivationSettings, WeightSettings

SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Factors that ranges are shrunk by, to take the best; the range search tries ten times as many."""


def without_exponents(rows: Tensor, settings: WeightSettings) -> tuple[Tensor, Tensor]:
    """Weights divided by the factors from their groups' exponents, and these factors.

    The result is the same for all bits: it depends on the groups and the largest exponent only.
    """
    if not settings.has_exponents:
        return rows, torch.ones(())
    exponent = group_exponents(rows, settings.group_size, settings.max_exponent)
    factor = input_factors(exponent, settings.group_size, rows.shape[1])
    return rows / factor, factor


def scaled_errors(rows: Tensor, factor: Tensor, settings: WeightSettings) -> Tensor:
    """Squared error of weights rounded to nearest, summed over the inputs: ``[out]``.

    Ranges are shrunk as ``range_search`` does (with ``mse``), in coarser steps.

    Args:
        rows: ``[out, n]``, as returned by ``without_exponents``, like the next.
        factor: factors that they were divided by.
        settings: bits, and how ranges are chosen.
    """
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    shrinks = torch.tensor(SHRINKS if settings.range_method == "mse" else SHRINKS[:1])[:, None]
    scale, zero_point = weight_parameters(
        low * shrinks, high * shrinks, settings.n_bits, settings.symmetric
    )
    ratio = rows / scale[..., None]  # [shrinks, out, n]
    lowest = -zero_point[..., None]
    error = ratio.round().clamp_(lowest, lowest + 2**settings.n_bits - 1).sub_(ratio)
    return (error.mul_(factor).square_().sum(-1) * scale.square()).amin(0)


def input_variance(ranges: Ranges, settings: ActivationSettings, padded: bool) -> Tensor:
    """Variance of an input's rounding error, ``[steps, channels]``: a twelfth of the squared scale.

    Args:
        ranges: ranges of each channel at each step, ``[steps, channels]``.
        settings: multiples, or k-means with one group: a single scale for the whole tensor.
        padded: whether the input is padded with zeros.
    """
    low, high = ranges
    if settings.grouping == "kmeans":
        low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    else:
        low, high = required_range(low, high, padded)
    if not settings.per_step:
        low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
    width = high - low
    # The least multiples that cover the ranges; for an estimate, no base scale is searched.
    possible = possible_multiples(settings.n_bits, settings.max_exponent).to(width.dtype)
    needed = relative_to_largest(width).amax(0) * possible[-1]
    multiple = possible[torch.searchsorted(possible, needed)]
    scale = finest_scale(width, multiple, settings.n_bits)[:, None] * multiple
    return (scale.square() / 12).expand(ranges.low.shape)
