"""The remaining work, and its estimated duration."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import median

from benchmarks.ablation.cells import Cell
from benchmarks.ablation.runs import run_of
from benchmarks.ablation.store import Store
from data.embedded import SCENES_GENERATION
from dgq.planning.plan import plan
from dgq.planning.table import minutes
from dgq.recipes import Custom, Recipe
from dgq.settings import LearningSettings, QuantizationSettings
from dgq.storage.checkpoint import has_model

MEASURING_SECONDS = 0.35
"""Assumed seconds of a cell for each prompt, until one has been measured."""


class Remaining:
    """The unfinished part of some cells.

    Args:
        cells: all requested cells.
        store: store of the finished cells.
        outputs: folder of the runs.
        n_prompts: prompts that cells are measured on.
    """

    def __init__(self, cells: Sequence[Cell], store: Store, outputs: Path, n_prompts: int) -> None:
        self.cells, self.store, self.outputs, self.n_prompts = cells, store, outputs, n_prompts
        self.update()

    def update(self) -> None:
        """Update what is finished."""
        unfinished = [c for c in self.cells if self.store.find(c, self.n_prompts) is None]
        self.left = list({cell.name: cell for cell in unfinished}.values())
        runs = dict.fromkeys(cell.calibration for cell in self.left)
        self.runs = [run for run in runs if not has_model(run_of(run, self.outputs) / "quantized")]

    def state(self, cell: Cell) -> str:
        """``"done "`` or ``"to do"``."""
        return "done " if self.store.find(cell, self.n_prompts) else "to do"

    def seconds(self) -> float:
        """Estimated seconds, with the threads of this process."""
        calibrating = sum(seconds_of(run.model, run.recipe, run.n_prompts) for run in self.runs)
        return calibrating + len(self.left) * self.seconds_of_measuring()

    def seconds_of_measuring(self) -> float:
        """Seconds of one cell, from those that were measured."""
        known = [line["measuring_cpu_s"] / line["n_prompts"] for line in self.store.lines.values()]
        return self.n_prompts * (median(known) if known else MEASURING_SECONDS)

    def text(self) -> str:
        """The remaining work in words."""
        return (
            f"{len(self.runs)} calibrations and {len(self.left)} models to measure, about "
            f"{minutes(self.seconds())} left"
        )


def seconds_of(model: str, recipe: Recipe, n_prompts: int) -> float:
    """Seconds of one calibration, planned once for each kind of learning."""
    return planned_seconds(model, recipe.learning, n_prompts)


@cache
def planned_seconds(model: str, learning: LearningSettings, n_prompts: int) -> float:
    """Seconds of a calibration of 4-bit weights."""
    recipe = Custom(QuantizationSettings(), learning)
    found = plan(model, recipe, generation=SCENES_GENERATION, n_prompts=n_prompts)
    return sum(found.seconds.values())
