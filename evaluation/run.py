"""An evaluation from beginning to end: draw, measure, report."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from safetensors import SafetensorError
from torch import nn

from dgq.errors import DGQError
from dgq.storage.files import check_writable, read_json, remove_leftovers, write_json
from evaluation.drawing import Artist, Batch, plan_batches
from evaluation.grid import write_grid
from evaluation.measure import Measured, measure
from evaluation.models import as_json
from evaluation.plan import Plan, prepare
from evaluation.processes import Workshop, draw_in_processes
from evaluation.progress import make_progress
from evaluation.record import describe, describe_model, describe_versions, identity
from evaluation.report.page import write_report
from evaluation.settings import EvaluationSettings
from evaluation.table import make_table

METRICS_FILE = "metrics.json"
GRID_FILE = "grid.png"
REPORT_FILE = "report.html"
SHARED_OUTPUT = Path("outputs/evaluation")
"""Where comparisons go that belong to no single run."""


def evaluate(settings: EvaluationSettings, console: Console, command: str = "") -> dict[str, Any]:
    """Measure a full-precision pipeline, and quantized models against it.

    Keeps images in the folder of images, writes ``metrics.json``, ``grid.png`` and
    ``report.html`` into the output folder and prints a table. Images that are there already, from
    an interrupted run or another evaluation with the same settings, are not drawn again.

    Args:
        settings: what to do.
        console: for progress and table.
        command: how it was called, for the report.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DGQError: if an input is missing, damaged, or does not fit, before anything is written; or
            if writing fails, and then what is there is kept.
    """
    plan = prepare(settings)
    protocol = describe(plan)
    models = [describe_model(model) for model in plan.models]
    output = settings.output or default_output(plan, identity(protocol, models))
    check_output(output, identity(protocol, models), settings.overwrite)
    check_writable(output, "--output")
    check_writable(settings.images, "--images")
    for model in plan.models:
        if model.execution is not None:
            console.print(f"{model.name}: {model.execution}", highlight=False, markup=False)
    try:
        remove_leftovers(output)
        for job in plan.jobs:
            job.store.open_()
        with make_progress(console) as progress:
            draw(plan, progress)
            measured = measure(plan, progress)
        report = make_report(protocol, models, measured, command)
        write_json(output / METRICS_FILE, report)
        write_grid(output / GRID_FILE, plan)
        write_report(output / REPORT_FILE, report, plan)
    except (OSError, SafetensorError) as error:
        raise DGQError(
            f"cannot write to {settings.images} or {output}: {error}; mend that and call again, "
            "it goes on from here"
        ) from error
    console.print(make_table(report))
    console.print(
        f"written: {METRICS_FILE}, {GRID_FILE} and {REPORT_FILE} in {escape(str(output))}"
    )
    return report


def default_output(plan: Plan, name: str) -> Path:
    """Folder of the results: in the run, if there is a single one, else among comparisons."""
    runs = [model.run for model in plan.models if model.run is not None]
    parent = runs[0] / "evaluation" if len(runs) == 1 else SHARED_OUTPUT
    return parent / f"{plan.settings.protocol_name}-{name}"


def check_output(output: Path, name: str, overwrite: bool) -> None:
    """Raise DGQError rather than replace results of another evaluation.

    Args:
        output: folder of the results.
        name: identity of this evaluation.
        overwrite: replace them all the same.
    """
    if output.exists() and not output.is_dir():
        raise DGQError(f"--output {output} is not a folder")
    files = [output / name for name in (METRICS_FILE, GRID_FILE, REPORT_FILE)]
    if overwrite or not any(file.exists() for file in files):
        return
    try:
        known = read_json(files[0])
        other = identity(known["protocol"], known["models"])
    except (DGQError, ValueError, KeyError, TypeError):
        other = None
    if other != name:
        raise DGQError(
            f"{output} holds results of another evaluation: choose another --output, or "
            "--overwrite to replace them"
        )


@torch.no_grad()
def draw(plan: Plan, progress: Progress) -> None:
    """Draw what is missing, on one device or several."""
    batches = plan_batches(plan.jobs, plan.batch_size)
    advance = _bars(plan, batches, progress)
    if len(plan.devices) > 1 and batches:
        threads = max(1, torch.get_num_threads() // len(plan.devices))
        checkpoints = tuple(model.checkpoint for model in plan.models)
        workshop = Workshop(
            *(plan.source, checkpoints, tuple(plan.jobs), plan.generation, threads),
            plan.settings.protocol.execution,
        )
        draw_in_processes(workshop, plan.devices, batches, advance)
        return

    @lru_cache(maxsize=1)  # batches come model after model
    def unet_of(model: int) -> nn.Module:
        return plan.unet(model)

    with Artist(plan.pipeline, unet_of, plan.jobs, plan.generation) as artist:
        for batch in batches:
            artist.draw(batch)
            advance(batch)


def _bars(plan: Plan, batches: list[Batch], progress: Progress) -> Callable[[Batch], None]:
    """A bar for each job; the function that moves them."""
    tasks: list[TaskID] = []
    for number, job in enumerate(plan.jobs):
        n = len(job.store.prompts)
        missing = sum(len(batch.missing) for batch in batches if batch.job == number)
        tasks.append(progress.add_task(escape(job.label), total=n, completed=n - missing))
    return lambda batch: progress.advance(tasks[batch.job], len(batch.missing))


def make_report(
    protocol: dict[str, Any], models: list[dict[str, Any]], measured: Measured, command: str
) -> dict[str, Any]:
    """What ``metrics.json`` holds."""
    parts = zip(models, measured.metrics, measured.sqnr, measured.costs, strict=True)
    report = {
        "protocol": protocol,
        "models": [
            {**model, "metrics": metrics, "sqnr": sqnr, "cost": cost}
            for model, metrics, sqnr, cost in parts
        ],
        "n_references": measured.references,
        "notes": measured.notes,
        "versions": describe_versions(),
        "command": command,
    }
    return as_json(report)
