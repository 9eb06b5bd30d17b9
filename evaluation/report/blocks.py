"""Errors of a calibration's targets, from the log of its run."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.models import Model

LOG_FILE = "log.csv"
TARGET, ERROR, NEAREST = "target", "error", "error_nearest"


@dataclass(frozen=True)
class BlockError:
    """Relative squared error of one target's output.

    Args:
        target: name.
        error: error of each model; None if it does not have this target.
        nearest: error of the same target before learning, with nearest rounding, if the log has it;
            of the UNet as a whole, after its blocks were learned.
    """

    target: str
    error: list[float | None]
    nearest: list[float | None]


def block_errors(models: Sequence[Model]) -> tuple[list[str], list[BlockError]]:
    """Names of the models whose runs have a log, and the errors of their targets in log order."""
    logs = {m.name: _read(m.run / LOG_FILE) for m in models if m.run is not None}
    logs = {name: log for name, log in logs.items() if log}
    targets = dict.fromkeys(target for log in logs.values() for target in log)
    errors = [
        BlockError(
            target,
            [log.get(target, (None, None))[0] for log in logs.values()],
            [log.get(target, (None, None))[1] for log in logs.values()],
        )
        for target in targets
    ]
    return list(logs), errors


def _read(path: Path) -> dict[str, tuple[float | None, float | None]]:
    """(error, error with nearest rounding) of each target; empty if there is no such log."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {row[TARGET]: (_number(row.get(ERROR)), _number(row.get(NEAREST))) for row in rows}
    except (KeyError, ValueError, UnicodeDecodeError, csv.Error):
        return {}


def _number(text: str | None) -> float | None:
    return float(text) if text else None
