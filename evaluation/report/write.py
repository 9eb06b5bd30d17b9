"""The last stage: results as files, and as a table in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from dgq.hub.evidence import METRICS_FILE
from dgq.storage.files import write_json
from evaluation.images.grid import write_grid
from evaluation.inputs import Inputs
from evaluation.report.output import GRID_FILE, REPORT_FILE
from evaluation.report.page import write_page
from evaluation.report.results import Results, make_report
from evaluation.report.table import make_table


def write_results(
    output: Path,
    results: Results,
    protocol: dict[str, Any],
    models: Sequence[dict[str, Any]],
    inputs: Inputs,
    command: str,
) -> dict[str, Any]:
    """Write ``metrics.json``, ``grid.png`` and ``report.html``; returns the content of the first.

    Args:
        output: folder of the results.
        results: results of all models.
        protocol: the protocol as executed.
        models: descriptions of the models.
        inputs: inputs of the evaluation, for images and logs.
        command: command line of the evaluation.
    """
    report = make_report(results, protocol, models, command)
    write_json(output / METRICS_FILE, report)
    stores = inputs.stores_of_first_seed()
    write_grid(output / GRID_FILE, stores, inputs.prompts.captions)
    write_page(output / REPORT_FILE, report, inputs.comparison.models, stores)
    return report


def show(report: dict[str, Any], output: Path, console: Console) -> None:
    """Print the table, and where the files are."""
    console.print(make_table(report))
    console.print(
        f"written: {METRICS_FILE}, {GRID_FILE} and {REPORT_FILE} in {escape(str(output))}"
    )
