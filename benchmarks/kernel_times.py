"""Timing of kernels that compute the same, in turn in one process."""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.scripts import exit_code
from dgq.settings.checks import check_positive


def command(description: str, run: Callable[[int], None], argv: Sequence[str] | None) -> int:
    """Run a benchmark; returns the exit code: 0, or 2 after one line about bad input.

    Args:
        description: description for ``--help``.
        run: takes the number of calls of each kernel.
        argv: arguments, or None for those of the process.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--calls", type=int, default=5, help="calls of each kernel (default: 5)")
    arguments = parser.parse_args(argv)

    @torch.no_grad()
    def checked() -> None:
        check_positive("--threads", arguments.threads)
        check_positive("--calls", arguments.calls)
        torch.set_num_threads(arguments.threads)
        run(arguments.calls)

    return exit_code(checked)


def least_milliseconds(kernels: Sequence[Callable[[], Tensor]], calls: int) -> list[float]:
    """CPU milliseconds of the fastest call of each kernel; the kernels take turns."""
    taken = [[_processor_seconds(kernel) for kernel in kernels] for _ in range(calls)]
    return [1e3 * min(each) for each in zip(*taken, strict=True)]


def _processor_seconds(kernel: Callable[[], Tensor]) -> float:
    started = time.process_time()
    kernel()
    return time.process_time() - started
