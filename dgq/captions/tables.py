"""The column of captions in a CSV or TSV file."""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgq.errors import DGQError

COLUMNS = ("text", "caption", "prompt", "captions", "sentence")
"""Names of a column of captions, in any case."""

LINE_ENDS = re.compile(r"\r\n|\n|\r")
"""Line ends of a file: only these, since a caption may contain Unicode's line separators."""


def table_captions(path: Path, text: str, kind: str) -> list[str]:
    """The captions in a table, every row of which must have one.

    Args:
        path: path of the file, for messages.
        text: content of the file.
        kind: ``.csv``, or ``.tsv`` for tab-separated cells in which quotes are ordinary characters.

    Raises:
        DGQError: if it is not a table, has no column of captions, or a row does not fit the header.
    """
    if kind == ".csv":
        # Lines end where the csv module says, also inside quotes, not at Unicode's line separators.
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    else:
        rows = csv.DictReader(LINE_ENDS.split(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        return _column(path, rows)
    except csv.Error as error:
        raise DGQError(
            f"{path} is not a table ({error}, line {rows.line_num}): correct it"
        ) from error


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
    """The caption in a row, which must fit the header."""
    value = row[name]
    if value is None:
        raise DGQError(f"row {line} of {path} has no {name}: it is cut short; correct the file")
    if None in row:
        raise DGQError(
            f"row {line} of {path} has more cells than the header: put captions with commas in "
            "quotes"
        )
    return str(value)
