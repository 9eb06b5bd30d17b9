"""A number with its uncertainty."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.bootstrap import FEWEST, Weights, bootstrap_interval

Array = NDArray[np.float64]
Interval = tuple[float, float]

ROUNDING = 1e-9
"""Width of an interval, relative to its ends, below which nothing varies."""


@dataclass(frozen=True)
class Ratio:
    """Sums over images that form a metric: ``sum(hits) / sum(asked)``.

    Args:
        hits: [n], contribution of each image to the numerator.
        asked: [n], contribution to the denominator; ones for a mean.
    """

    hits: Array
    asked: Array

    def value(self, weights: Weights | float = 1.0) -> float:
        """The metric with each image weighted; NaN if no image counts."""
        asked = float((self.asked * weights).sum())
        return float((self.hits * weights).sum()) / asked if asked else float("nan")


@dataclass(frozen=True)
class Estimate:
    """A metric of one model.

    Args:
        value: mean over the seeds.
        std: standard deviation over the seeds (unbiased); None with a single seed.
        interval: 95 % bootstrap interval over prompts; None if there is none.
        seeds: the value for each seed.
        difference: bootstrap interval of the difference from full precision, paired by image.
    """

    value: float
    std: float | None
    interval: Interval | None
    seeds: list[float]
    difference: Interval | None = None


def mean(values: Array) -> Ratio:
    """The mean of one number per image."""
    return Ratio(values, np.ones_like(values))


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and standard deviation over seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), std, None, [float(v) for v in values])


def of_ratios(
    seeds: Sequence[Mapping[str, Ratio]], full_precision: Sequence[Mapping[str, Ratio]] | None
) -> Estimate:
    """A mean of ratios (usually of a single one) for each seed, with bootstrap intervals.

    Prompts are resampled, each with its images of all seeds and both models. Too few prompts say
    nothing about others, nor do images that all score alike: 20 of 20 right does not mean that
    none can be wrong. These get no interval.

    Args:
        seeds: for each seed, the ratios whose mean is the metric.
        full_precision: the same in full precision, to compare with.
    """
    n = len(next(iter(seeds[0].values())).hits)
    estimate = over_seeds([_statistic([seed])(1.0) for seed in seeds])
    if n < FEWEST:
        return estimate
    ours = _statistic(seeds)
    interval = _unless_empty(bootstrap_interval(ours, n))
    if full_precision is None:
        return replace(estimate, interval=interval)
    theirs = _statistic(full_precision)
    difference = bootstrap_interval(lambda weights: ours(weights) - theirs(weights), n)
    return replace(estimate, interval=interval, difference=difference)


def _unless_empty(interval: Interval) -> Interval | None:
    """An interval; None if it has no width."""
    low, high = interval
    return None if high - low <= ROUNDING * max(abs(low), abs(high)) else interval


def _statistic(seeds: Sequence[Mapping[str, Ratio]]) -> Callable[[Weights | float], float]:
    """The mean of the ratios of all seeds, as a function of the images' weights."""
    ratios = [ratio for seed in seeds for ratio in seed.values()]
    return lambda weights: float(np.mean([ratio.value(weights) for ratio in ratios]))
