"""Means and spreads over seeds, and gains of one row over another, from the finished cells."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from benchmarks.ablation.measure import gain_interval

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """Measurements of one recipe at some bits, over the seeds.

    Args:
        stage: stage of the ablation.
        model: name of the embedded model.
        row: its name.
        bits: its bits.
        lines: measurements, one for each seed.
    """

    stage: str
    model: str
    row: str
    bits: str
    lines: tuple[Line, ...]

    @property
    def sqnr_db(self) -> float:
        """Mean over the seeds."""
        return float(mean(line["sqnr_db"] for line in self.lines))

    @property
    def spread_db(self) -> float | None:
        """Standard deviation over the seeds; None for a single seed."""
        values = [line["sqnr_db"] for line in self.lines]
        return stdev(values) if len(values) > 1 else None

    @property
    def interval_db(self) -> tuple[float, float]:
        """The interval over prompts, for the first seed."""
        low, high = self.lines[0]["interval_db"]
        return float(low), float(high)


@dataclass(frozen=True)
class Gain:
    """The advantage of one row over another, in decibels.

    Args:
        mean_db: mean over the seeds that both have.
        spread_db: standard deviation over these; None for one.
        interval_db: interval over prompts, for the first of them.
    """

    mean_db: float
    spread_db: float | None
    interval_db: tuple[float, float]


def rows_of(lines: Iterable[Line]) -> list[Row]:
    """Rows in the order of their first lines, seeds ascending."""
    groups: dict[tuple[str, str, str, str], list[Line]] = {}
    for line in lines:
        key = line["stage"], line["model"], line["row"], line["bits"]
        groups.setdefault(key, []).append(line)
    return [
        Row(*key, tuple(sorted(group, key=lambda line: line["seed"])))
        for key, group in groups.items()
    ]


def find(rows: Sequence[Row], **wanted: str) -> Row | None:
    """The first row with these properties."""
    for row in rows:
        if all(getattr(row, name) == value for name, value in wanted.items()):
            return row
    return None


def gain(row: Row, over: Row) -> Gain | None:
    """Gain of one row over another; None unless they share a seed and the prompts."""
    others = {line["seed"]: line for line in over.lines}
    pairs = [(line, others[line["seed"]]) for line in row.lines if line["seed"] in others]
    pairs = [(a, b) for a, b in pairs if a["signal_by_prompt"] == b["signal_by_prompt"]]
    if not pairs:
        return None
    gains = [a["sqnr_db"] - b["sqnr_db"] for a, b in pairs]
    first, second = pairs[0]
    noises = (first["noise_by_prompt"], second["noise_by_prompt"])
    return Gain(
        mean(gains),
        stdev(gains) if len(gains) > 1 else None,
        gain_interval(first["signal_by_prompt"], *noises),
    )
