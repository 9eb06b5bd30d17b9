"""The measured results, and their form in ``metrics.json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evaluation.costs.costs import Cost
from evaluation.metrics.measure import Estimates
from evaluation.models import as_json
from evaluation.report.record import describe_versions


@dataclass(frozen=True)
class Results:
    """The numbers of an evaluation.

    Args:
        metrics: metrics of each model, by key; None for what could not be measured.
        sqnr: SQNR of each model, in dB at each step; None for full precision.
        costs: costs of each model.
        n_references: number of real images; None if unknown.
        notes: remarks for readers of the numbers.
    """

    metrics: Sequence[Estimates]
    sqnr: Sequence[dict[str, Any] | None]
    costs: Sequence[Cost]
    n_references: int | None
    notes: Sequence[str]


def make_report(
    results: Results, protocol: dict[str, Any], models: Sequence[dict[str, Any]], command: str
) -> dict[str, Any]:
    """The content of ``metrics.json``.

    Args:
        results: of all models.
        protocol: protocol as it was carried out.
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
        "threads": torch.get_num_threads(),
        "command": command,
    }
    return as_json(report)
