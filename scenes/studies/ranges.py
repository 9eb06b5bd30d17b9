"""Outliers along an axis, and change over the steps, from observed ranges."""

import torch
from torch import Tensor

from dgq.quantizers.observer import Ranges

LEAST_SHARE = 1e-6
"""Lower bound of a median relative to the largest range: dead channels give a finite ratio."""


def outlier_ratios(width: Tensor) -> Tensor:
    """The largest width over the median width at each step, ``[steps, members] -> [steps]``."""
    largest = width.amax(1)
    median = torch.quantile(width.double(), 0.5, dim=1).clamp(min=LEAST_SHARE * largest)
    return torch.where(largest > 0, largest / median, 1.0)


def outliers(ranges: Ranges) -> float:
    """The outlier ratio of a layer: the median over the steps."""
    return float(torch.quantile(outlier_ratios(ranges.high - ranges.low), 0.5))


def change_over_steps(ranges: Ranges) -> float:
    """The widest range of the whole tensor at any step over the narrowest."""
    width = ranges.high.amax(1) - ranges.low.amin(1)
    largest = width.max()
    return float(largest / width.min().clamp(min=LEAST_SHARE * largest)) if largest > 0 else 1.0
