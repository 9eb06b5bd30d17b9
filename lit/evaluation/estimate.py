"""A number with what is known about its error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit.evaluation.bootstrap import Weights, bootstrap_interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """Sums over images that make a metric: ``sum(hits) / sum(asked)``.

    Args:
        hits: [n], what each image adds above.
        asked: [n], what it adds below; ones for a mean.
    """

    hits: Array
    asked: Array

    def value(self, weights: Weights | float = 1.0) -> float:
        """The metric, with each image counted as often as its weight says; NaN if none counts."""
        asked = float((self.asked * weights).sum())
        return float((self.hits * weights).sum()) / asked if asked else float("nan")


@dataclass(frozen=True)
class Estimate:
    """A metric of one model.

    Args:
        value: mean over the seeds.
        std: standard deviation over the seeds (unbiased); None with a single seed.
        interval: 95 % bootstrap interval over prompts; None where none is made.
        seeds: the value for each seed.
    """

    value: float
    std: float | None
    interval: tuple[float, float] | None
    seeds: list[float]


def mean(values: Array) -> Ratio:
    """The mean of a number of each image."""
    return Ratio(values, np.ones_like(values))


def over_seeds(values: Sequence[float], interval: tuple[float, float] | None = None) -> Estimate:
    """Mean and standard deviation over seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), std, interval, [float(v) for v in values])


def of_ratios(seeds: Sequence[Mapping[str, Ratio]]) -> Estimate:
    """A mean of ratios (of a single one, as a rule) for each seed, with a bootstrap interval.

    Prompts are drawn again, each with its images of all seeds.

    Args:
        seeds: for each seed, the ratios whose mean is the metric.
    """

    def statistic(of: Sequence[Mapping[str, Ratio]]) -> Callable[[Weights | float], float]:
        ratios = [ratio for seed in of for ratio in seed.values()]
        return lambda weights: float(np.mean([ratio.value(weights) for ratio in ratios]))

    n = len(next(iter(seeds[0].values())).hits)
    values = [statistic([seed])(1.0) for seed in seeds]
    return over_seeds(values, bootstrap_interval(statistic(seeds), n))
