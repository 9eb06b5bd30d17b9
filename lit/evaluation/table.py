"""The results as a table for the terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from lit.evaluation.rows import Row, make_rows

COLOURS = {1: "green", -1: "red", 0: "dim"}


def make_table(report: dict[str, Any]) -> Table:
    """Full precision beside each model, from what is written to ``metrics.json``."""
    table = Table(title=_title(report), caption=_caption(report), caption_justify="left")
    table.add_column("metric")
    for model in report["models"]:
        table.add_column(escape(model["name"]), justify="right")
    for row in make_rows(report):
        cells = (_text(row, number) for number in range(len(report["models"])))
        table.add_row(f"{row.label} {row.arrow}".strip(), *cells)
    return table


def _text(row: Row, model: int) -> str:
    """A number, and its change in colour."""
    change = row.change(model)
    coloured = f" [{COLOURS[row.verdict(model)]}]({change})[/]" if change else ""
    return row.text(model) + coloured


def _title(report: dict[str, Any]) -> str:
    protocol = report["protocol"]
    return (
        f"{escape(protocol['preset'])}: {protocol['num_images']} images, "
        f"{protocol['num_inference_steps']} steps of {protocol['sampler']}, "
        f"guidance {protocol['guidance_scale']:g}, seeds {', '.join(map(str, protocol['seeds']))}"
    )


def _caption(report: dict[str, Any]) -> str:
    protocol = report["protocol"]
    extractors = protocol["extractors"].items()
    lines = [
        f"prompts: {protocol['prompts']}; references: {protocol['references'] or 'none'}",
        *(f"{metric}: {name}" for metric, name in extractors if name),
        *(f"note: {note}" for note in report["notes"]),
    ]
    return escape("\n".join(lines))
