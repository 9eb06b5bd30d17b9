"""The steps and the size of latents that activation scales are kept for."""

import math
from collections.abc import Sequence
from typing import Any

LARGEST_SIZE = 2**20
"""Largest valid side of the latents, in pixels."""


def problem_of_steps(timesteps: Sequence[Any], latent_size: Sequence[Any]) -> str | None:
    """What is invalid about timesteps or a latent size, if anything."""
    try:
        times, sizes = [float(t) for t in timesteps], [*latent_size]
    except (TypeError, ValueError, OverflowError):
        return f"expected numbers and a height and a width, got {timesteps!r:.60}, {latent_size!r}"
    if not times or not all(map(math.isfinite, times)):
        return "timesteps are not a list of finite numbers"
    if len(set(times)) < len(times):
        return "a timestep occurs twice"
    if len(sizes) != 2 or not all(type(n) is int and 0 < n <= LARGEST_SIZE for n in sizes):
        return f"latent_size is {sizes!r:.60}, expected a height and a width"
    return None
