"""The log of a training: a folder with a table for each time that it was resumed."""

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

LOG = "log"
"""Folder of the tables; Lightning empties one that it is to write into, so each has its own."""
N_LINES = 200


def logger(folder: Path) -> CSVLogger:
    """Logs into a new table in the folder of a training."""
    return CSVLogger(folder, name=LOG, flush_logs_every_n_steps=1)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of a training's log by step; those of steps that were taken again replaced."""
    tables = sorted((folder / LOG).glob("version_*"), key=lambda table: int(table.name[8:]))
    lines: dict[int, dict[str, float]] = {}
    for table in tables:
        with (table / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                # Lightning counts from 0.
                step = int(row.pop("step")) + 1
                numbers = {name: float(f"{float(v):.5g}") for name, v in row.items() if v}
                lines[step] = {"step": step} | numbers
                del lines[step]["epoch"]
    return [lines[step] for step in sorted(lines)]
