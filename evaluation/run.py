"""A complete evaluation: generate, extract features, measure, report."""

from typing import Any

from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError

from dgq.errors import DGQError
from dgq.storage.files import check_writable, remove_leftovers
from evaluation.costs.costs import measure_costs
from evaluation.features.extract import extract_features
from evaluation.features.references import References, find_references
from evaluation.fidelity.measure import measure_sqnr
from evaluation.images.generate import generate
from evaluation.inputs import Inputs, load_inputs
from evaluation.metrics.measure import measure
from evaluation.metrics.metric import Against
from evaluation.progress import make_progress
from evaluation.report.output import check_output, default_output
from evaluation.report.record import describe, describe_model, describe_versions, identity
from evaluation.report.results import Results
from evaluation.report.write import show, write_results
from evaluation.settings import EvaluationSettings


def evaluate(settings: EvaluationSettings, console: Console, command: str = "") -> dict[str, Any]:
    """Measure a full-precision pipeline, and quantized models against it.

    Keeps images in the folder of images, writes ``metrics.json``, ``grid.png`` and ``report.html``
    into the output folder, and prints a table. Images that exist already, from an interrupted run
    or another evaluation with the same settings, are not drawn again.

    Args:
        settings: what to do.
        console: for progress and table.
        command: the command as it was called, for the report.

    Returns:
        The content of ``metrics.json``.

    Raises:
        DGQError: if an input is missing, damaged, or does not fit, before anything is written; or
            if writing fails, and then what is there is kept.
    """
    inputs = load_inputs(settings)
    protocol = describe(inputs)
    models = [describe_model(model) for model in inputs.comparison.models]
    name = identity(protocol, models, describe_versions())
    output = settings.output or default_output(inputs, name)
    check_output(output, name, settings.overwrite)
    check_writable(output, "--output")
    check_writable(settings.images, "--images")
    for model in inputs.comparison.models:
        if model.execution is not None:
            console.print(f"{model.name}: {model.execution}", highlight=False, markup=False)
    try:
        remove_leftovers(output)
        with make_progress(console) as progress:
            results = run(inputs, progress)
        report = write_results(output, results, protocol, models, inputs, command)
    except (OSError, SafetensorError) as error:
        raise DGQError(
            f"cannot write to {settings.images} or {output}: {error}; fix that and call again, "
            "it resumes from here"
        ) from error
    show(report, output, console)
    return report


def run(inputs: Inputs, progress: Progress) -> Results:
    """Run the stages, each on the result of the previous one."""
    comparison, sets, batch_size = inputs.comparison, inputs.sets, inputs.batch_size
    settings, captions = inputs.settings, inputs.prompts.captions
    generate(comparison, sets, inputs.devices, batch_size, progress)
    task = progress.add_task("metrics", total=len(sets) + len(comparison.models) + 1)
    references, about_references = real_images(inputs)
    progress.advance(task)
    samples = extract_features(sets, inputs.extractors, references, inputs.n_embedded, batch_size)
    names = [model.name for model in comparison.models]
    metrics, about_metrics = measure(samples, inputs.metrics, names, lambda: progress.advance(task))
    sqnr, about_sqnr = measure_sqnr(comparison, sets[0], batch_size, progress)
    costs, about_costs = measure_costs(
        comparison, captions[:batch_size], settings.latency_calls, settings.compile
    )
    notes = [*inputs.notes, *about_references, *about_metrics, *about_sqnr, *about_costs]
    n_references = None if references is None else references.n
    return Results(metrics, sqnr, costs, n_references, list(dict.fromkeys(notes)))


def real_images(inputs: Inputs) -> tuple[References | None, list[str]]:
    """The references, if a metric needs them, and notes on what was left out."""
    if not any(metric.against is Against.REAL_IMAGES for metric in inputs.metrics):
        return None, []
    side = next(inputs.sets[0].store.measured(1))[0].width
    protocol = inputs.protocol
    return find_references(
        protocol.references,
        inputs.prompts,
        protocol.seeds[0],
        side if inputs.comparison.is_square else None,
        protocol.measured_size,
        inputs.extractors,
        inputs.settings.batch_size,
    )
