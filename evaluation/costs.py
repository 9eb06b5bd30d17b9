"""What each model of an evaluation costs: operations, bytes, seconds."""

from typing import Any

import torch

from dgq.errors import DGQError
from dgq.inspection.cost import count_operations, parameter_bytes, resident_bytes
from dgq.pipelines.loading import first_line
from dgq.storage.checkpoint import find_model
from evaluation.generation import Call, record_call
from evaluation.latency import time_calls
from evaluation.memory import peak_bytes
from evaluation.plan import Plan

COMPILED = "compiled"

Cost = dict[str, float | int | None]


def measure_costs(plan: Plan, notes: list[str]) -> list[Cost]:
    """Costs of each model, for one sampler step of one image (two rows with guidance).

    Seconds are those of a batch as images are drawn: a small call measures little but Python.
    """
    captions = plan.prompts.captions
    call = record_call(plan.pipeline, captions[:1], plan.generation)
    costs = [_count(plan, number, call) for number in range(len(plan.models))]
    batch = record_call(plan.pipeline, captions[: plan.settings.batch_size], plan.generation)
    for cost, latency in zip(costs, _latencies(plan, batch), strict=True):
        cost["latency_s"] = latency
    costs[0]["compiled_latency_s"] = _compiled_latency(plan, batch, notes)
    return costs


def _count(plan: Plan, number: int, call: Call) -> Cost:
    unet, folder = plan.unet(number), plan.models[number].checkpoint
    args, kwargs = call
    operations = count_operations(unet, args, kwargs)
    on_disk = parameter_bytes(unet) if folder is None else find_model(folder).size()
    return {
        "bops": operations.bops,
        "layer_bops": operations.layer_bops,
        "attention_bops": operations.attention_bops,
        "bytes_on_disk": on_disk,
        "bytes_in_memory": resident_bytes(unet),
        "peak_call_bytes": peak_bytes(lambda: unet(*args, **kwargs), plan.device),
    }


def _latencies(plan: Plan, call: Call) -> list[float]:
    """Median seconds of one call of each model's UNet."""
    unets = {str(number): plan.unet(number) for number in range(len(plan.models))}
    seconds = time_calls(unets, call, plan.settings.latency_calls, plan.device)
    return [seconds[str(number)] for number in range(len(plan.models))]


def _compiled_latency(plan: Plan, call: Call, notes: list[str]) -> float | None:
    """Median seconds of one call of the compiled full-precision UNet; None where not asked for."""
    if not plan.settings.compile:
        notes.append("latency of the compiled UNet: not measured (--compile does)")
        return None
    compiled: Any = torch.compile(plan.pipeline.unet)
    try:
        seconds = time_calls({COMPILED: compiled}, call, plan.settings.latency_calls, plan.device)
    except Exception as error:  # whatever a compiler raises
        raise DGQError(
            f"--compile: the UNet cannot be compiled here ({first_line(error)}): mend it, or "
            "measure without"
        ) from error
    return seconds[COMPILED]
