"""Tables of the figures: for a terminal, and in Markdown to paste."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.inference.rows import BASES

BEFORE_RATIOS = ("", "wall s", "median", "CPU s")
AFTER_RATIOS = ("peak GiB", "resident GiB", "file MB", "compile s", "SQNR dB")
NONE = "-"
DISTURBED = 0.2
"""Cores that other processes may keep busy without a remark."""

WIDTH = 150
"""Columns of a terminal that the tables need; a narrower one wraps their lines."""


def headers(table: Mapping[str, Any]) -> list[str]:
    """Titles of the columns, with ratios to the rows that were measured."""
    return [*BEFORE_RATIOS, *(BASES[base] for base in bases(table)), *AFTER_RATIOS]


def bases(table: Mapping[str, Any]) -> list[str]:
    """The measured rows that others are compared with."""
    ratios = [row["faster_than"] for row in table["rows"]]
    return [base for base in BASES if any(one.get(base) is not None for one in ratios)]


def rows_of(table: Mapping[str, Any]) -> list[list[str]]:
    """The rows as text."""
    return [cells(row, bases(table)) for row in table["rows"]]


def cells(row: Mapping[str, Any], bases: Sequence[str]) -> list[str]:
    """One row as text, with dashes for missing figures."""
    if "failed" in row:
        n_figures = len(BEFORE_RATIOS) + len(bases) + len(AFTER_RATIOS) - 2
        return [row["title"], "failed", *[NONE] * n_figures]
    return [
        row["title"],
        *(seconds(row[name]) for name in ("wall_min_s", "wall_median_s", "cpu_s")),
        *(_text(row["faster_than"].get(base), ".2f") for base in bases),
        _text(row["peak_gib"], ".2f"),
        _text(row["resident_gib"], ".2f"),
        _text(row["file_mb"], ".0f" if row["file_mb"] >= 100 else ".1f"),
        _text(row["compile_s"] if row["compile_s"] >= 1 else None, ".0f"),
        _text(row["sqnr_db"], ".1f"),
    ]


def seconds(value: float) -> str:
    """Seconds to three digits."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def heading(table: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The title of a table."""
    return f"{titles[table['model']]}, batch {table['batch']}"


def print_tables(figures: Mapping[str, Any], console: Console) -> None:
    """Print the tables to a terminal, with the conditions."""
    console.width = max(console.width, WIDTH)
    for table in figures["tables"]:
        shown = Table(title=escape(heading(table, figures["titles"])), box=SIMPLE)
        for header in headers(table):
            shown.add_column(header, justify="right" if header else "left", no_wrap=True)
        for row in rows_of(table):
            shown.add_row(*map(escape, row))
        console.print(shown)
    for line in (*conditions(figures), *remarks(figures)):
        console.print(escape(line), highlight=False, soft_wrap=True)


def markdown(figures: Mapping[str, Any]) -> str:
    """The tables to paste into docs."""
    lines = [f"`{figures['command']}`: {' '.join(conditions(figures))}", ""]
    for table in figures["tables"]:
        lines += [f"### {heading(table, figures['titles'])}", ""]
        lines += markdown_table(headers(table), rows_of(table))
        lines.append("")
    lines += [f"- {line}" for line in remarks(figures)]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table."""
    for line in (headers, ["---"] + ["---:"] * (len(headers) - 1), *rows):
        yield f"| {' | '.join(line)} |"


def conditions(figures: Mapping[str, Any]) -> Iterator[str]:
    """The conditions of the figures, in a few sentences."""
    machine = figures["machine"]
    features = ", ".join(machine["features"]) or "no fast integer products"
    gpu = f"{machine['gpu']}; " if machine.get("gpu") else ""
    yield f"{gpu}{machine['cpu']} ({features}), {figures['threads']} threads."
    yield ", ".join(f"{name} {number}" for name, number in machine["versions"].items()) + "."
    yield (
        f"{figures['repeats_done']} of {figures['repeats']} rounds, in which the rows take turns. "
        "Ratios are of the least wall times in this run: larger is faster."
    )


def remarks(figures: Mapping[str, Any]) -> Iterator[str]:
    """What was skipped, what has failed, and what each row runs."""
    yield from figures["notes"]
    if figures.get("jobs", 1) > 1:
        yield "rows were prepared side by side: compiling waited while others were timed"
    disturbed = sorted({title for title, row in _rows(figures) if _is_disturbed(row)})
    if disturbed:
        yield (
            f"other processes kept more than {DISTURBED} of a core busy meanwhile, which slows "
            f"these down: {'; '.join(disturbed)}"
        )
    for title, row in dict(_rows(figures)).items():
        if "failed" in row:
            yield f"{title}: failed: {row['failed']}"
        elif row["ckpt"] is not None:
            yield f"{title}: {row['execution']}"


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All rows of all tables, with the titles of model and row."""
    for table in figures["tables"]:
        for row in table["rows"]:
            yield f"{figures['titles'][table['model']]}, {row['title']}", row


def _is_disturbed(row: Mapping[str, Any]) -> bool:
    return "failed" not in row and row["others_cores"] > DISTURBED


def _text(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)
