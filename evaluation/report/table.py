"""The results as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from evaluation.batching import batched
from evaluation.report.rows import Row, make_rows

PER_TABLE = 3
COLOURS = {1: "green", -1: "red", 0: "dim"}


def make_table(report: dict[str, Any]) -> Group:
    """A table of full precision beside each model, from the content of ``metrics.json``.

    Few models share a table, since a terminal has no room for more.
    """
    rows = list(make_rows(report))
    quantized = range(1, len(report["models"]))
    tables = [_table(report, rows, [0, *part]) for part in batched(quantized, PER_TABLE)]
    tables = tables or [_table(report, rows, [0])]
    tables[0].title = _title(report)
    tables[-1].caption = _caption(report)
    return Group(*tables)


def _table(report: dict[str, Any], rows: Sequence[Row], models: Sequence[int]) -> Table:
    table = Table(caption_justify="left")
    table.add_column("metric")
    for number in models:
        table.add_column(escape(report["models"][number]["name"]), justify="right")
    for row in rows:
        cells = (_text(row, number) for number in models)
        table.add_row(f"{row.label} {row.arrow}".strip(), *cells)
    return table


def _text(row: Row, model: int) -> str:
    """A number with its change in colour."""
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
