"""The measurements: a line of JSON per cell, appended when the cell is finished."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.ablation.cells import Cell
from dgq.errors import DGQError


class Store:
    """The lines of ``cells.jsonl``.

    Args:
        file: read if it is there.

    Raises:
        DGQError: for a line that is not JSON, except an incomplete last one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[str, dict[str, Any]] = {}
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        *whole, rest = text.split("\n")
        for number, line in enumerate(whole, 1):
            try:
                found = json.loads(line)
                self.lines[found["cell"]] = found
            except (ValueError, TypeError, KeyError) as error:
                raise DGQError(f"{file}, line {number} is damaged: remove it") from error
        if rest:  # killed while it was written
            file.write_text("".join(line + "\n" for line in whole), encoding="utf-8")

    def find(self, cell: Cell, n_prompts: int) -> dict[str, Any] | None:
        """The measurements of a cell with these settings and this number of prompts."""
        found = self.lines.get(cell.name)
        if found is None or found["identity"] != identity(cell, n_prompts):
            return None
        return found

    def add(self, cell: Cell, n_prompts: int, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Append a line."""
        line = {"cell": cell.name, "identity": identity(cell, n_prompts), **figures}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines[cell.name] = line
        return line


def identity(cell: Cell, n_prompts: int) -> str:
    """A short hash of everything that determines a cell, apart from the code."""
    content = repr((cell.recipe, cell.calibration, n_prompts))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
