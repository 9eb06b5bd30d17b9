"""The lines of a table of results: what they are called, where they are, which way is better."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """A number of one model.

    Args:
        value: None where it was not measured.
        std: over seeds.
        interval: 95 % bootstrap interval.
        difference: such an interval of the difference to full precision.
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
        cells: of each model.
        better: the sign of a change for the better; 0 where the change is shown as a ratio.
        digits: decimal places.
    """

    label: str
    cells: list[Cell]
    better: int
    digits: int = 2

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return {1: "↑", -1: "↓", 0: ""}[self.better]

    def text(self, model: int) -> str:
        """The number of a model, with its deviation over seeds."""
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
        """Difference to full precision, or the ratio of a cost; empty where there is none."""
        full, value = self.cells[0].value, self.cells[model].value
        if model == 0 or full is None or value is None:
            return ""
        if self.better == 0:
            return f"÷ {full / value:.1f}" if value else ""
        text = f"{value - full:+.{self.digits}f}"
        return "=" if float(text) == 0 else text

    def verdict(self, model: int) -> int:
        """1 where a model is better than full precision, -1 where it is worse, else 0.

        Also 0 where the difference may be chance, since its interval includes none.
        """
        change, difference = self.change(model), self.cells[model].difference
        if change in ("", "=") or (difference and difference[0] <= 0 <= difference[1]):
            return 0
        full, value = self.cells[0].value, self.cells[model].value
        assert full is not None
        assert value is not None
        sign = 1 if value > full else -1
        # Costs fall for the better.
        return sign * (self.better or -1)


METRICS: tuple[tuple[str, str, int, int], ...] = (
    ("fid", "FID to real images", -1, 2),
    ("kid", "KID to real images, x 1000", -1, 2),
    ("inception_score", "Inception score", 1, 2),
    ("clip_score", "CLIP score", 1, 2),
    ("oracle_mean", "oracle: mean of attributes", 1, 3),
    ("oracle_all", "oracle: all attributes right", 1, 3),
    ("oracle_background", "oracle: background", 1, 3),
    ("oracle_colour", "oracle: colour", 1, 3),
    ("oracle_size", "oracle: size", 1, 3),
    ("oracle_shape", "oracle: shape", 1, 3),
    ("oracle_texture", "oracle: texture", 1, 3),
    ("oracle_place", "oracle: place", 1, 3),
    ("oracle_relation", "oracle: relation", 1, 3),
    ("oracle_count", "oracle: count", 1, 3),
    ("image_reward", "ImageReward", 1, 3),
    ("fid_to_full_precision", "FID to full precision", -1, 2),
    ("kid_to_full_precision", "KID to full precision, x 1000", -1, 2),
    ("psnr", "PSNR to full precision, dB", 1, 2),
    ("ssim", "SSIM to full precision", 1, 3),
    ("lpips", "LPIPS to full precision", -1, 3),
)
"""Key, label, sign of the better, decimal places."""

COSTS: tuple[tuple[str, str, float, int], ...] = (
    ("bops", "GBOPs of a sampler step", 1e9, 1),
    ("bytes_on_disk", "UNet on disk, MB", 1e6, 1),
    ("bytes_in_memory", "UNet in memory, MB", 1e6, 1),
    ("peak_call_bytes", "peak of a call beside it, MB", 1e6, 1),
    ("latency_s", "UNet call of a batch, ms", 1e-3, 1),
    ("compiled_latency_s", "UNet call of a batch, compiled, ms", 1e-3, 1),
)
"""Key, label, unit, decimal places."""


def make_rows(report: dict[str, Any]) -> Iterator[Row]:
    """All lines of a report that at least one model has a number in."""
    models = report["models"]
    for key, label, better, digits in METRICS:
        scale = 1000 if key.startswith("kid") else 1
        cells = [_cell(model["metrics"].get(key), scale) for model in models]
        yield from _known(Row(label, cells, better, digits))
    for key, label in (("plain", "SQNR of the UNet, dB"), ("guided", "SQNR after guidance, dB")):
        parts = [(model["sqnr"] or {}).get(key) or {} for model in models]
        yield from _known(Row(label, [Cell(part.get("mean_db")) for part in parts], 1))
    for key, label, unit, digits in COSTS:
        values = [model["cost"].get(key) for model in models]
        cells = [Cell(None if value is None else value / unit) for value in values]
        yield from _known(Row(label, cells, 0, digits))


def _cell(estimate: dict[str, Any] | None, scale: float) -> Cell:
    if estimate is None:
        return Cell(None)
    std = estimate["std"]
    return Cell(
        estimate["value"] * scale,
        None if std is None else std * scale,
        estimate["interval"],
        estimate["difference"],
    )


def _known(row: Row) -> Iterator[Row]:
    if any(cell.value is not None for cell in row.cells):
        yield row
