"""What was measured, and how ``metrics.json`` holds it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.costs.costs import Cost
from evaluation.metrics.measure import Estimates
from evaluation.models import as_json
from evaluation.report.record import describe_versions


@dataclass(frozen=True)
class Results:
    """The numbers of an evaluation.

    Args:
        metrics: of each model, by key; None where something could not be measured.
        sqnr: of each model, dB at each step; None in full precision.
        costs: of each model.
        n_references: how many real images there were; None if unknown.
        notes: what readers of the numbers should know.
    """

    metrics: Sequence[Estimates]
    sqnr: Sequence[dict[str, Any] | None]
    costs: Sequence[Cost]
    n_references: int | None
    notes: Sequence[str]


def make_report(
    results: Results, protocol: dict[str, Any], models: Sequence[dict[str, Any]], command: str
) -> dict[str, Any]:
    """What ``metrics.json`` holds.

    Args:
        results: of all models.
        protocol: as it was carried out.
        models: descriptions of them.
        command: how the evaluation was called.
    """
    parts = zip(models, results.metrics, results.sqnr, results.costs, strict=True)
    report = {
        "protocol": protocol,
        "models": [
            {**model, "metrics": metrics, "sqnr": sqnr, "cost": cost}
            for model, metrics, sqnr, cost in parts
        ],
        "n_references": results.n_references,
        "notes": results.notes,
        "versions": describe_versions(),
        "command": command,
    }
    return as_json(report)
