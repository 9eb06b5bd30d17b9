"""The results as a table for the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

MISSING = "-"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        label: what is measured.
        full_precision: value of the full-precision pipeline, None if it has none.
        quantized: value of the quantized pipeline.
        better: the sign of a change for the better; 0 where the change is shown as a ratio.
        digits: decimal places.
    """

    label: str
    full_precision: float | None
    quantized: float | None
    better: int
    digits: int = 2

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return {1: " ↑", -1: " ↓", 0: ""}[self.better]

    @property
    def change(self) -> str:
        """Difference to full precision in colour, or the ratio of a cost."""
        if self.full_precision is None or self.quantized is None:
            return ""
        if self.better == 0:
            return f"[green]÷ {self.full_precision / self.quantized:.1f}[/]"
        difference = self.quantized - self.full_precision
        text = f"{difference:+.{self.digits}f}"
        if float(text) == 0:
            return "="
        return f"[{'green' if difference * self.better > 0 else 'red'}]{text}[/]"


def make_table(report: dict[str, Any]) -> Table:
    """Full precision beside quantized, from what is written to ``metrics.json``."""
    protocol = report["protocol"]
    table = Table(title=_title(protocol), caption=_caption(report), caption_justify="left")
    table.add_column("metric")
    for name in ("full precision", "quantized", "change"):
        table.add_column(name, justify="right")
    for row in _rows(report):
        values = (_number(v, row.digits) for v in (row.full_precision, row.quantized))
        table.add_row(row.label + row.arrow, *values, row.change)
    return table


def _rows(report: dict[str, Any]) -> Iterator[Row]:
    full, quantized, cost = report["full_precision"], report["quantized"], report["cost"]
    yield Row("FID to real images", full["fid"], quantized["fid"], -1)
    yield Row("FID to full precision", None, quantized["fid_to_full_precision"], -1)
    yield Row("Inception score", full["inception_score"], quantized["inception_score"], 1)
    yield Row("CLIP score", full["clip_score"], quantized["clip_score"], 1)
    for name in full["oracle"] or ():
        yield Row(f"oracle: {name}", full["oracle"][name], quantized["oracle"][name], 1, 3)
    yield Row("PSNR to full precision, dB", None, quantized["psnr"], 1)
    yield Row("SQNR of the UNet, dB", None, quantized["sqnr_db"], 1)
    for label, key, unit in (
        ("GBOPs of a sampler step", "bops", 1e9),
        ("weights, MB", "bytes", 1e6),
    ):
        full_cost, quantized_cost = (cost[n][key] / unit for n in ("full_precision", "quantized"))
        yield Row(label, full_cost, quantized_cost, 0, 1)


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def _title(protocol: dict[str, Any]) -> str:
    return (
        f"{protocol['checkpoint']}: {protocol['num_images']} images, "
        f"{protocol['num_inference_steps']} steps of {protocol['sampler']}, "
        f"guidance {protocol['guidance_scale']:g}, seed {protocol['seed']}"
    )


def _caption(report: dict[str, Any]) -> str:
    protocol = report["protocol"]
    lines = [
        f"prompts: {protocol['prompts']}",
        f"FID features: {protocol['extractors']['fid']}",
        *(f"note: {note}" for note in report["notes"]),
    ]
    return "\n".join(lines)
