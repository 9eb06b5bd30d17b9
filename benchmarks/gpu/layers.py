"""Peaks of the device, and every layer shape of an SD-1.4-sized UNet compared with them."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.children import SUBJECTS
from benchmarks.inference.layer_gaps import layer_gaps
from benchmarks.inference.machine import machine
from benchmarks.inference.peaks import measure_peaks
from benchmarks.inference.request import Options
from benchmarks.inference.turns import Turns
from dgq.inspection.memory import resident_bytes
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.call_rows import to_device


@torch.no_grad()
def measure_layers(
    model: str, device: str, batches: list[int], cache: Path, size: int, turns: Turns
) -> Iterator[dict[str, Any]]:
    """All results so far, after each batch size; plain values for JSON.

    Args:
        model: model whose layers are measured.
        device: device that computes.
        batches: batch sizes.
        cache: folder of the quantized model.
        size: size of the operands that peaks are measured on.
        turns: turns of this process and others.
    """
    subject = SUBJECTS[model](Options(str(cache), (), 1, 1, 1, 1, device))
    part = subject.part("quantized", "w4a8")
    assert part is not None
    part.ensure()
    unet = load_quantized_unet(part.folder, "integer", device=device)
    calls = {batch: to_device(subject.call(batch), device) for batch in batches}
    for call in calls.values():
        unet(**call)  # compiles
    with turns.alone():
        peaks = measure_peaks(device, size)
    weights = sum(p.numel() for p in subject.stock().parameters())
    figures = {
        "machine": machine(),
        "peaks": asdict(peaks),
        "execution": str(unet.execution),
        "bytes": resident_bytes(unet),
        "bytes_of_bf16": 2 * weights,
        "shapes": {},
    }
    yield figures
    for batch, call in calls.items():
        with turns.alone():
            shapes = layer_gaps(unet, call, peaks, device)
        names = ("seconds", "product_seconds", "bf16_seconds", "least_seconds")
        totals = {name: sum(s[name] * s["layers"] for s in shapes) for name in names}
        exact = all(shape["exact"] for shape in shapes)
        figures["shapes"][str(batch)] = {"totals": totals, "exact": exact, "each": shapes}
        yield figures
