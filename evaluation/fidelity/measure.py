"""SQNR of every model's UNet on the recorded full-precision calls."""

import math
from functools import partial
from typing import Any

from rich.markup import escape
from rich.progress import Progress

from evaluation.comparison import Comparison
from evaluation.fidelity.sqnr import Sqnr, unet_sqnr
from evaluation.images.image_set import ImageSet
from evaluation.metrics.line import Better, Line

LINES = (
    Line("plain", "SQNR of the UNet, mean over steps", Better.HIGHER, "dB"),
    Line("guided", "SQNR after guidance, mean over steps", Better.HIGHER, "dB"),
)
"""Lines for the parts of a model's ``sqnr``; the mean over steps is shown."""


def measure_sqnr(
    comparison: Comparison, recorded: ImageSet, batch_size: int, progress: Progress
) -> tuple[list[dict[str, Any] | None], list[str]]:
    """SQNR in dB at each step for each model, None for full precision; and notes.

    Args:
        comparison: the UNets.
        recorded: full-precision images, whose first UNet calls were recorded.
        batch_size: prompts at once.
        progress: shows a bar for each model.
    """
    store = recorded.store
    trajectories = [store.trajectory_path(index) for index in range(recorded.n_recorded)]
    parts: list[dict[str, Any] | None] = [None]
    notes: list[str] = []
    for number, model in enumerate(comparison.models[1:], start=1):
        task = progress.add_task(f"SQNR of {escape(model.name)}", total=len(trajectories))
        sqnr = unet_sqnr(
            comparison.unet(number),
            trajectories,
            comparison.generation.guidance_scale,
            batch_size,
            comparison.device,
            partial(progress.advance, task),
        )
        parts.append(as_dict(sqnr))
        notes += infinite_steps(sqnr, model.name)
    return parts, notes


def as_dict(sqnr: Sqnr) -> dict[str, Any]:
    """The entry for ``metrics.json``."""
    return {"plain": _per_step(sqnr.plain), "guided": sqnr.guided and _per_step(sqnr.guided)}


def infinite_steps(sqnr: Sqnr, model: str) -> list[str]:
    """A note on the steps whose SQNR is not finite, if there are any."""
    n = sum(not math.isfinite(value) for value in sqnr.plain)
    return [f"SQNR of {model}: not finite at {n} of {len(sqnr.plain)} steps"] if n else []


def _per_step(values: list[float]) -> dict[str, Any]:
    """Decibels of each step and their mean; None where they are not finite."""
    mean = sum(values) / len(values)
    return {
        "mean_db": mean if math.isfinite(mean) else None,
        "per_step_db": [value if math.isfinite(value) else None for value in values],
    }
