"""A column of captions of a CSV or TSV file."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgq.errors import DGQError

COLUMNS = ("text", "caption", "prompt", "captions", "sentence")
"""Names that a column of captions has, in any spelling."""


def table_captions(path: Path, text: str, kind: str) -> list[str]:
    """The column of captions of a table, every row of which must have one.

    Args:
        path: of the file, for messages.
        text: what is in it.
        kind: ``.csv``, or ``.tsv`` for tabs and quotes that mean nothing.

    Raises:
        DGQError: if it is no table, has no such column, or a row does not fit the header.
    """
    if kind == ".csv":
        # Lines end as the csv module says, inside quotes too; not where Unicode would break them.
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    else:
        lines = re.split(r"\r\n|\n|\r", text)
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        return _column(path, rows)
    except csv.Error as error:
        raise DGQError(f"{path} is no table ({error}, line {rows.line_num}): correct it") from error


def _column(path: Path, rows: "csv.DictReader[str]") -> list[str]:
    header = list(rows.fieldnames or [])
    found = [n for known in COLUMNS for n in header if n.strip().lower() == known]
    if not found:
        raise DGQError(
            f"{path} has no column of captions: it has {', '.join(header) or 'no header'}; "
            f"expected one of {', '.join(COLUMNS)}"
        )
    if header.count(found[0]) > 1:
        raise DGQError(f"{path} has several columns {found[0]}: keep one of them")
    return [_cell(path, row, found[0], rows.line_num) for row in rows]


def _cell(path: Path, row: Mapping[Any, Any], name: str, line: int) -> str:
    """The caption of a row that fits the header."""
    value = row[name]
    if value is None:
        raise DGQError(f"row {line} of {path} has no {name}: it is cut short; correct the file")
    if None in row:
        raise DGQError(
            f"row {line} of {path} has more cells than the header: put captions with commas in "
            "quotes"
        )
    return str(value)
