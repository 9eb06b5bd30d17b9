"""Peak performance of a device: operations and bytes per second."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.inference.device import is_gpu
from dgq.devices import wait
from dgq.ops import int_linear

REPEATS = 2
"""Milliseconds of calls that one graph holds; it is replayed ten times."""


@dataclass(frozen=True)
class Peaks:
    """Peaks measured on large operands.

    Args:
        int8_ops: multiplications and additions of bytes a second, by torch or by our kernels.
        bf16_ops: the same for bfloat16.
        bytes_per_s: read and written.
    """

    int8_ops: float
    bf16_ops: float
    bytes_per_s: float

    def least_seconds(self, operations: float, n_bytes: float, integer: bool) -> float:
        """Least seconds of a product, as limited by its operations or its bytes."""
        rate = self.int8_ops if integer else self.bf16_ops
        return max(operations / rate, n_bytes / self.bytes_per_s)


def measure_peaks(device: str, size: int = 8192) -> Peaks:
    """Measure square products of a size, and a copy of 16 times the bytes of an operand."""
    wide = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    whole = torch.randint(-128, 127, (size, size), device=device, dtype=torch.int8)
    source = torch.empty(16 * size * size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    operations = 2 * size**3
    ones, step = torch.ones(size, device=device), torch.zeros(1, dtype=torch.long, device=device)
    tables = (ones, ones[:1], torch.zeros(1, size, device=device), step)
    products = (
        lambda: torch._int_mm(whole, whole.t()),
        lambda: int_linear(whole, whole, *tables, torch.bfloat16),
    )
    return Peaks(
        operations / min(seconds_of(run, device) for run in products),
        operations / seconds_of(lambda: wide @ wide.t(), device),
        2 * source.numel() / seconds_of(lambda: target.copy_(source), device),
    )


def seconds_of(run: Callable[[], Tensor], device: str) -> float:
    """Seconds of one call: on a GPU of its kernels in a graph, else the least of some calls."""
    if is_gpu(device):
        from triton.testing import do_bench_cudagraph

        run()
        return float(do_bench_cudagraph(run, rep=REPEATS)) / 1000
    run()
    least = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        run()
        wait(device)
        least = min(least, time.perf_counter() - started)
    return least
