"""An evaluation from beginning to end: generate, measure, report."""

from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from dgq.errors import DGQError
from dgq.files import write_json
from lit.evaluation.generation import fill, using_unet
from lit.evaluation.grid import draw_grid
from lit.evaluation.images import read_image, save_png
from lit.evaluation.measure import Measured, measure
from lit.evaluation.plan import Plan, prepare
from lit.evaluation.progress import make_progress
from lit.evaluation.protocol import describe
from lit.evaluation.settings import EvaluationSettings
from lit.evaluation.table import make_table

METRICS_FILE = "metrics.json"
GRID_FILE = "grid.png"
GRID_COLUMNS = 8
FULL, QUANTIZED = "full precision", "quantized"


def evaluate(settings: EvaluationSettings, console: Console) -> dict[str, Any]:
    """Compare a quantized model with its full-precision pipeline.

    Writes ``images/``, ``grid.png`` and ``metrics.json`` into the output folder and prints a
    table. Images that are there from an interrupted run with the same settings are kept.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        DGQError: if an input is missing, damaged, or does not fit; before anything is written.
    """
    plan = prepare(settings)
    _open_(plan)
    with make_progress(console) as progress:
        _generate(plan, progress)
        measured = measure(plan, progress)
    report = _report(plan, measured)
    write_json(plan.output / METRICS_FILE, report)
    save_png(plan.output / GRID_FILE, _grid(plan))
    console.print(make_table(report))
    console.print(f"written: {METRICS_FILE}, {GRID_FILE} and images/ in {plan.output}")
    return report


def _open_(plan: Plan) -> None:
    """Make the output folder ready; results of other images must not stay beside the new ones."""
    try:
        for name in (METRICS_FILE, GRID_FILE):
            (plan.output / name).unlink(missing_ok=True)
        for store in (plan.full_precision_images, plan.quantized_images):
            store.open_()
    except OSError as error:
        raise DGQError(f"cannot write to --output {plan.output}: {error}") from error


def _generate(plan: Plan, progress: Progress) -> None:
    """Images of both pipelines, which share everything but the UNet."""
    batch_size = plan.settings.batch_size
    fill(plan.full_precision_images, plan.pipeline, plan.sampling, batch_size, progress, FULL)
    with using_unet(plan.pipeline, plan.quantized) as pipeline:
        fill(plan.quantized_images, pipeline, plan.sampling, batch_size, progress, QUANTIZED)


def _report(plan: Plan, measured: Measured) -> dict[str, Any]:
    return {
        "protocol": describe(plan),
        "full_precision": measured.full_precision,
        "quantized": measured.quantized,
        "cost": measured.cost,
        "notes": measured.notes,
    }


def _grid(plan: Plan) -> Image.Image:
    """The first prompts, full precision above quantized."""
    captions = plan.prompts.captions[:GRID_COLUMNS]
    rows = {
        label: [read_image(store.path(index)) for index in range(len(captions))]
        for label, store in ((FULL, plan.full_precision_images), (QUANTIZED, plan.quantized_images))
    }
    return draw_grid(rows, captions)
