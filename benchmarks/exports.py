"""How closely exports match our own execution, on recorded calls of the embedded model.

    python benchmarks/exports.py [--ckpt outputs/w4a8] [--captions 4]

For comparison, it includes our own executions, which differ in the order of floating-point sums: a
value near the border between two codes may get either, and later layers see a difference of a whole
code.
"""

import argparse
from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.inference.embedded import Embedded
from benchmarks.inference.onnx_runtime import OnnxUNet
from benchmarks.inference.peers import EXPORTED, OpenVINOUNet
from benchmarks.inference.request import Options
from benchmarks.inference.rows import is_installed
from dgq.command_line.console import quieten_libraries
from dgq.math.reconstruction import decibels, noise_and_signal
from dgq.storage.checkpoint import load_quantized_unet

Run = Callable[..., Any]
EVERY = 4
"""Sampler steps from one column of the table to the next."""


def main() -> None:
    """Measure and print."""
    arguments = parse()
    quieten_libraries()
    torch.set_num_threads(arguments.threads)
    options = Options(
        arguments.cache, (arguments.ckpt,), arguments.threads, 1, arguments.captions, 1
    )
    subject = Embedded(options)
    calls = subject.part("calls", "")
    assert calls is not None
    with torch.no_grad():
        calls.ensure()
        show(measure(subject, dict(executions(subject, arguments.ckpt, arguments.threads))))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="SQNR of exports to our own execution, in dB.")
    add = parser.add_argument
    add("--ckpt", default="outputs/w4a8", help="a finished run (default: outputs/w4a8)")
    add("--captions", type=int, default=4, help="held-out captions to measure on (default: 4)")
    add("--threads", type=int, default=2, help="threads of every library (default: 2)")
    add("--cache", default="outputs/exports", help="folder for calls and exports")
    return parser.parse_args()


def executions(subject: Embedded, ckpt: str, threads: int) -> Iterator[tuple[str, Run]]:
    """The ways to run the quantized UNet that are possible here."""
    folder = subject.quantized(ckpt)
    float32 = load_quantized_unet(folder, "integer", torch.float32)
    yield "our integers, the rest float32", float32
    yield f"our integers, the rest {(own := load_quantized_unet(folder)).execution.dtype}", own
    if is_installed("openvino"):
        exported = subject.part("export-openvino", ckpt)
        assert exported is not None
        exported.ensure()
        for name, precision in (("float32", "f32"), ("its default", "")):
            yield f"OpenVINO, {name}", OpenVINOUNet(exported.folder / EXPORTED, threads, precision)
    if is_installed("onnx") and is_installed("onnxruntime"):
        exported = subject.part("export-onnx", ckpt)
        assert exported is not None
        exported.ensure()
        yield "ONNX Runtime", OnnxUNet(exported.folder, threads)


def measure(subject: Embedded, runs: dict[str, Run]) -> dict[str, Tensor]:
    """Noise and signal of each way at each step, ``[steps, 2]``, against our float execution."""
    ours = load_quantized_unet(subject.quantized(subject.ckpts()[0]), "float", torch.float32)
    sums: dict[str, list[Tensor]] = {name: [] for name in runs}
    for call, _ in subject.held_out():
        expected = ours(**call)[0]
        for name, run in runs.items():
            sums[name].append(noise_and_signal(run(**call)[0], expected))
    return {name: torch.stack(found) for name, found in sums.items()}


def show(sums: dict[str, Tensor]) -> None:
    """Print a table: pooled over all steps, their mean, then single steps."""
    n_steps = len(next(iter(sums.values())))
    shown = range(0, n_steps, EVERY)
    table = Table("against our float32", "pooled", "mean", *(f"step {i + 1}" for i in shown))
    for name, found in sums.items():
        by_step = [decibels(*sums_at_step) for sums_at_step in found.tolist()]
        figures = [decibels(*found.sum(0).tolist()), fmean(by_step), *(by_step[i] for i in shown)]
        table.add_row(name, *(f"{value:.1f}" for value in figures))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
