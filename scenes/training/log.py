"""The log of a training: a folder with one table for each start or resume."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

LOG = "log"
"""Folder of the tables; each run has its own, since Lightning empties the one it writes to."""
N_LINES = 200


def logger(folder: Path) -> CSVLogger:
    """A logger that writes a new table in the folder of a training."""
    return CSVLogger(folder, name=LOG, flush_logs_every_n_steps=1)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a training's log by step; repeated steps replace earlier ones."""
    tables = (folder / LOG).glob("version_*/metrics.csv")
    lines: dict[int, dict[str, float]] = {}
    for table in sorted(tables, key=lambda table: int(table.parent.name[8:])):
        with table.open(newline="") as file:
            # A row without a step was cut short when the process was killed.
            found = [line_of(row) for row in csv.DictReader(file) if row["step"]]
        lines |= {int(line["step"]): line for line in found}
    return [lines[step] for step in sorted(lines)]


def line_of(row: dict[str, str]) -> dict[str, float]:
    """The numbers of a row, to five digits; steps count from 1, unlike Lightning's."""
    numbers = {n: float(f"{float(v):.5g}") for n, v in row.items() if v and n != "epoch"}
    return {"step": int(row["step"]) + 1} | {n: v for n, v in numbers.items() if n != "step"}
