"""Points along the training: what images of one moment are worth, and whether they get better."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import scenes
from evaluation.estimate import Estimate


@dataclass(frozen=True)
class Point:
    """What images of one moment of the training are worth; ``step`` is None for renders."""

    step: int | None
    fid: float
    clip_score: Estimate
    oracle_mean: Estimate
    oracle_all: Estimate


def describe_training(points: Sequence[Point], num_images: int) -> dict[str, Any]:
    """The points as JSON, and what they say."""
    return {
        "num_images": num_images,
        "steps": scenes.NUM_INFERENCE_STEPS,
        "guidance_scale": scenes.GUIDANCE_SCALE,
        "points": [asdict(point) for point in points],
        "fid_falls_monotonically": not rises(points),
    }


def rises(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """Consecutive points of the training between which FID does not fall."""
    trained = [point for point in points if point.step is not None]
    return [(a, b) for a, b in pairwise(trained) if b.fid >= a.fid]
