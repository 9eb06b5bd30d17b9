"""The folder of the results, and which of its files may be replaced."""

from pathlib import Path

from dgq.errors import DGQError
from dgq.hub.evidence import EVALUATION, METRICS_FILE
from dgq.storage.files import read_json
from evaluation.inputs import Inputs
from evaluation.report.record import identity

GRID_FILE = "grid.png"
REPORT_FILE = "report.html"
SHARED_OUTPUT = Path("outputs/evaluation")
"""Folder of comparisons that belong to no single run."""


def default_output(inputs: Inputs, name: str) -> Path:
    """Folder of the results: in the run if there is only one, else among the comparisons."""
    runs = [model.run for model in inputs.comparison.models if model.run is not None]
    parent = runs[0] / EVALUATION if len(runs) == 1 else SHARED_OUTPUT
    return parent / f"{inputs.settings.protocol_name}-{name}"


def check_output(output: Path, name: str, overwrite: bool) -> None:
    """Raise DGQError rather than replace results of another evaluation.

    Args:
        output: folder of the results.
        name: identity of this evaluation.
        overwrite: replace them anyway.
    """
    if output.exists() and not output.is_dir():
        raise DGQError(f"--output {output} is not a folder")
    files = [output / name for name in (METRICS_FILE, GRID_FILE, REPORT_FILE)]
    if overwrite or not any(file.exists() for file in files):
        return
    try:
        known = read_json(files[0])
        other = identity(known["protocol"], known["models"], known["versions"])
    except (DGQError, ValueError, KeyError, TypeError):
        other = None
    if other != name:
        raise DGQError(
            f"{output} holds results of another evaluation: choose another --output, or "
            "--overwrite to replace them"
        )
