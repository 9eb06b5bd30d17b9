"""Bootstrap intervals: the uncertainty of a mean over prompts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
"""Seed of the draws."""


def bootstrap_interval(statistic: Callable[[Weights], float], n: int) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of n prompts (Efron, 1979).

    Args:
        statistic: function of the number of times that each prompt was drawn, [n].
        n: number of prompts.
    """
    generator = np.random.default_rng(SEED)
    even = np.full(n, 1 / n)
    values = [statistic(generator.multinomial(n, even).astype(float)) for _ in range(RESAMPLES)]
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
