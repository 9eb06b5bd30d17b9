"""The rows of recorded calls on which a recipe measures before it chooses."""

from collections.abc import Sequence
from typing import Any

from dgq.unet.call_rows import Call, combined, of_rows

N_MEASURED = 192
"""Number of rows; more of them hardly change the choice of bits (docs/experiments.md)."""

MOST_PIXELS = 2**12
"""Pixels of latents that are measured at once: a row of SD 1.4, whose activations are all kept."""


def measured_rows(calls: Sequence[Call], n_rows: int = N_MEASURED) -> list[dict[str, Any]]:
    """Rows spread evenly over all calls, in calls as large as memory for gradients allows.

    Args:
        calls: keyword arguments of UNet calls, with a timestep for each row.
        n_rows: most rows to take.
    """
    places = [(call, row) for call in calls for row in range(call["sample"].shape[0])]
    n_rows = min(n_rows, len(places))
    chosen = [places[index * len(places) // n_rows] for index in range(n_rows)]
    rows = [of_rows(dict(call), slice(row, row + 1)) for call, row in chosen]
    height, width = rows[0]["sample"].shape[-2:]
    at_once = max(1, MOST_PIXELS // (height * width))
    return [combined(rows[first : first + at_once]) for first in range(0, n_rows, at_once)]
