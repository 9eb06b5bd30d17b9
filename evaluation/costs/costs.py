"""The cost of each model of an evaluation: operations, bytes, seconds."""

from collections.abc import Sequence
from typing import Any

import torch

from dgq.errors import DGQError, first_line
from dgq.inspection.cost import count_operations, parameter_bytes
from dgq.inspection.memory import resident_bytes
from dgq.storage.checkpoint import find_model
from evaluation.comparison import Comparison
from evaluation.costs.latency import busy_machine, time_calls
from evaluation.costs.memory import peak_of_call
from evaluation.images.sampling import Arguments, record_call
from evaluation.metrics.line import Better, Line

COMPILED = "compiled"

Cost = dict[str, float | int | None]

LINES = tuple(
    Line(key, label, Better.CHEAPER, unit, digits=1, scale=scale)
    for key, label, unit, scale in (
        ("bops", "GBOPs of a sampler step", "", 1e-9),
        ("bytes_on_disk", "UNet on disk", "MB", 1e-6),
        ("bytes_in_memory", "UNet in memory", "MB", 1e-6),
        ("peak_call_bytes", "activations of a call, at most", "MB", 1e-6),
        ("latency_s", "UNet call of a batch", "ms", 1e3),
        ("compiled_latency_s", "UNet call of a batch, compiled", "ms", 1e3),
    )
)
"""Lines of tables for a model's ``cost``."""


def measure_costs(
    comparison: Comparison, captions: Sequence[str], n_calls: int, compiles: bool
) -> tuple[list[Cost], list[str]]:
    """Costs of each model, for one sampler step of one image (two rows with guidance), and notes.

    Seconds are those of a batch as used for drawing: a small call would measure mostly Python.

    Args:
        comparison: the UNets.
        captions: captions of one batch.
        n_calls: number of timed calls.
        compiles: time the compiled full-precision UNet too.
    """
    pipeline, generation = comparison.pipeline, comparison.generation
    call = record_call(pipeline, captions[:1], generation)
    costs = [_count(comparison, number, call) for number in range(len(comparison.models))]
    batch = record_call(pipeline, captions, generation)
    for cost, latency in zip(costs, _latencies(comparison, batch, n_calls), strict=True):
        cost["latency_s"] = latency
    notes = list(busy_machine())
    costs[0]["compiled_latency_s"] = None
    if not compiles:
        return costs, [*notes, "latency of the compiled UNet: not measured (--compile does)"]
    costs[0]["compiled_latency_s"] = _compiled_latency(comparison, batch, n_calls)
    return costs, notes


def _count(comparison: Comparison, number: int, call: Arguments) -> Cost:
    unet, folder = comparison.unet(number), comparison.models[number].checkpoint
    args, kwargs = call
    operations = count_operations(unet, args, kwargs)
    on_disk = parameter_bytes(unet) if folder is None else find_model(folder).size()
    return {
        "bops": operations.bops,
        "layer_bops": operations.layer_bops,
        "attention_bops": operations.attention_bops,
        "bytes_on_disk": on_disk,
        "bytes_in_memory": resident_bytes(unet),
        "peak_call_bytes": peak_of_call(lambda: unet(*args, **kwargs), comparison.device),
    }


def _latencies(comparison: Comparison, call: Arguments, n_calls: int) -> list[float]:
    """Median seconds of one call of each model's UNet."""
    numbers = range(len(comparison.models))
    unets = {str(number): comparison.unet(number) for number in numbers}
    seconds = time_calls(unets, call, n_calls, comparison.device)
    return [seconds[str(number)] for number in numbers]


def _compiled_latency(comparison: Comparison, call: Arguments, n_calls: int) -> float:
    """Median seconds of one call of the compiled full-precision UNet."""
    compiled: Any = torch.compile(comparison.pipeline.unet)
    try:
        seconds = time_calls({COMPILED: compiled}, call, n_calls, comparison.device)
    except Exception as error:  # whatever a compiler raises
        raise DGQError(
            f"--compile: the UNet cannot be compiled here ({first_line(error)}): fix it, or "
            "measure without"
        ) from error
    return seconds[COMPILED]
