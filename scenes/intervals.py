"""Confidence intervals of shares."""

import math

Z_95 = 1.959964
"""Half the width of a 95 % interval of the normal distribution, in standard deviations."""


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share measured on `n` independent cases (Wilson 1927).

    Unlike the usual interval it stays within [0, 1] and has a positive width if all cases agree.

    Raises:
        ValueError: `n` is not positive or the share lies outside [0, 1].
    """
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"expected a share in [0, 1] of at least 1 case, got {share} of {n}")
    z = Z_95
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)
