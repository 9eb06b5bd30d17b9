"""The smallest quantized UNet on the device, run before the steps that take minutes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inference.full_size import FullSize
from benchmarks.inference.measure import compiled
from benchmarks.inference.request import Options
from benchmarks.inference.subjects import Call
from benchmarks.unet_configs import SMALLEST
from dgq.inference.execution import Mode
from dgq.math.reconstruction import decibels, noise_and_signal
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.call_rows import to_device

LEAST_DB = 25.0
"""Lowest accepted SQNR of the UNet against the same one run in floating point."""

CALLS = 3
"""Calls: a GPU records the graph of a compiled UNet in the second, and replays it in the third."""


class Smallest(FullSize):
    """A UNet with one layer of each kind."""

    name = "smallest"
    title = "the smallest UNet"
    config = SMALLEST


@torch.no_grad()
def check_smallest(device: str, cache: Path) -> dict[str, Any]:
    """The SQNR of each way to run, against floating point, ready for JSON."""
    subject = Smallest(Options(str(cache), (), 1, 1, 1, 1, device))
    call = to_device(subject.call(2), device)
    figures = {}
    for name in ("quantized", "weight-only"):
        part = subject.part(name, "w4a8")
        assert part is not None
        part.ensure()
        reference = output_of(part.folder, "float", device, call)
        mode: Mode = "integer" if name == "quantized" else "auto"
        unet = load_quantized_unet(part.folder, mode, device=device)
        figures[name] = sqnr_db(unet(**call)[0], reference)
        if name == "quantized":
            run = compiled(unet, device)
            outputs = [run(**call)[0].clone() for _ in range(CALLS)]
            figures["compiled"] = sqnr_db(outputs[-1], reference)
    return figures


def output_of(folder: Path, mode: Mode, device: str, call: Call) -> Tensor:
    """The output of the quantized UNet in a folder."""
    unet: nn.Module = load_quantized_unet(folder, mode, device=device)
    output: Tensor = unet(**call)[0]
    return output


def sqnr_db(output: Tensor, reference: Tensor) -> float:
    """SQNR of an output in dB; NaN if it is not finite."""
    return decibels(*noise_and_signal(output, reference).tolist())
