"""The rows of a table of results: each model's number, its change, and whether it is better."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.costs.costs import LINES as COST_LINES
from evaluation.fidelity.measure import LINES as SQNR_LINES
from evaluation.metrics.line import Line
from evaluation.metrics.registry import all_metrics

MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """A number of one model.

    Args:
        value: value; None if it was not measured.
        std: standard deviation over seeds.
        interval: 95 % bootstrap interval.
        difference: interval of the difference from full precision.
    """

    value: float | None
    std: float | None = None
    interval: tuple[float, float] | None = None
    difference: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One metric of all models, full precision first.

    Args:
        label: what is measured.
        cells: numbers of each model.
        better: sign of an improvement; 0 if the change is shown as a ratio.
        digits: decimal places.
    """

    label: str
    cells: list[Cell]
    better: int
    digits: int = 2

    @property
    def arrow(self) -> str:
        """An arrow in the direction that is better."""
        return {1: "↑", -1: "↓", 0: ""}[self.better]

    def text(self, model: int) -> str:
        """The number of a model, with its standard deviation over seeds."""
        cell = self.cells[model]
        if cell.value is None:
            return MISSING
        deviation = "" if cell.std is None else f" ± {cell.std:.{self.digits}f}"
        return f"{cell.value:,.{self.digits}f}{deviation}"

    def interval(self, model: int) -> str:
        """The 95 % interval of a model's number, or nothing."""
        interval = self.cells[model].interval
        if interval is None:
            return ""
        return f"{interval[0]:,.{self.digits}f} to {interval[1]:,.{self.digits}f}"

    def change(self, model: int) -> str:
        """Difference from full precision, or the ratio of a cost; empty if there is none."""
        full, value = self.cells[0].value, self.cells[model].value
        if model == 0 or full is None or value is None:
            return ""
        if self.better == 0:
            return f"÷ {full / value:.1f}" if value else ""
        text = f"{value - full:+.{self.digits}f}"
        return "=" if float(text) == 0 else text

    def verdict(self, model: int) -> int:
        """1 if a model is better than full precision, -1 if it is worse, else 0.

        Also 0 if the difference may be chance: its interval includes 0, or it has none and is no
        cost. FID, KID and Inception score change from set to set of images, by an unknown amount.
        """
        change, difference = self.change(model), self.cells[model].difference
        if change in ("", "=") or (self.better != 0 and not _excludes_zero(difference)):
            return 0
        full, value = self.cells[0].value, self.cells[model].value
        assert full is not None
        assert value is not None
        sign = 1 if value > full else -1
        # Lower costs are better.
        return sign * (self.better or -1)


def make_rows(report: dict[str, Any]) -> Iterator[Row]:
    """All lines of a report for which at least one model has a number."""
    models = report["models"]
    for line in (line for metric in all_metrics() for line in metric.lines):
        estimates = [model["metrics"].get(line.key) for model in models]
        yield from _known(line, [_cell(estimate, line.scale) for estimate in estimates])
    for line in SQNR_LINES:
        parts = [(model["sqnr"] or {}).get(line.key) or {} for model in models]
        yield from _known(line, [Cell(part.get("mean_db")) for part in parts])
    for line in COST_LINES:
        values = [model["cost"].get(line.key) for model in models]
        cells = [Cell(None if value is None else value * line.scale) for value in values]
        yield from _known(line, cells)


def _excludes_zero(interval: Sequence[float] | None) -> bool:
    """Whether an interval is known and lies on one side of zero."""
    return interval is not None and not interval[0] <= 0 <= interval[1]


def _cell(estimate: dict[str, Any] | None, scale: float) -> Cell:
    if estimate is None:
        return Cell(None)
    std = estimate["std"]
    return Cell(
        estimate["value"] * scale,
        None if std is None else std * scale,
        _scaled(estimate["interval"], scale),
        _scaled(estimate["difference"], scale),
    )


def _scaled(interval: Sequence[float] | None, scale: float) -> tuple[float, float] | None:
    return None if interval is None else (interval[0] * scale, interval[1] * scale)


def _known(line: Line, cells: list[Cell]) -> Iterator[Row]:
    if any(cell.value is not None for cell in cells):
        yield Row(line.title, cells, line.better, line.digits)
