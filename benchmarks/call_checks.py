"""Milliseconds of torch's checks before each call of a compiled UNet; nothing is computed.

    python benchmarks/call_checks.py

Compares the stock UNet, the quantized one compiled by ``torch.compile``, and the quantized one
compiled by its own method, all with SD 1.4's structure and a thousandth of its weights: the checks
do not depend on sizes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.fx import GraphModule

from benchmarks.inference.full_size import Tiny
from benchmarks.inference.request import Options
from benchmarks.inference.subjects import Call
from benchmarks.scripts import exit_code
from dgq.settings.checks import check_positive
from dgq.storage.checkpoint import load_quantized_unet


def computes_nothing(graph: GraphModule, _: Any) -> Callable[..., list[Tensor]]:
    """A Dynamo compiler whose graphs return tensors allocated once."""
    outputs: Any = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    values = [node.meta["example_value"] for node in outputs]
    kept = [torch.zeros(value.shape, dtype=value.dtype) for value in values]
    return lambda *_: kept


def compiled(unet: nn.Module, by_torch: bool) -> Callable[..., Any]:
    """Compile a UNet by ``torch.compile``, or by its own method."""
    if by_torch:
        return torch.compile(unet, fullgraph=True, backend=computes_nothing)
    unet.compile(fullgraph=True, backend=computes_nothing)
    return unet


def milliseconds(unet: Callable[..., Any], call: Call, rounds: int) -> list[float]:
    """Milliseconds per call, after a call that compiles."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        unet(**call)
        taken.append(1000 * (time.perf_counter() - started))
    return taken[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 0, or 2 after one line about bad input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200, help="calls of each (default: 200)")
    rounds = parser.parse_args(argv).rounds
    return exit_code(lambda: run(rounds))


@torch.no_grad()
def run(rounds: int) -> None:
    """Print the table."""
    check_positive("--rounds", rounds)
    table = Table("UNet", "least ms", "median", title=f"torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        subject = Tiny(Options(folder, (), 1, 1, 1, 1))
        part, call = subject.own_part("quantized"), subject.call(2)
        assert part is not None
        part.ensure()
        quantized = partial(load_quantized_unet, part.folder)
        for title, load, by_torch in (
            ("stock", subject.stock, True),
            ("quantized, torch.compile(unet)", quantized, True),
            ("quantized, unet.compile()", quantized, False),
        ):
            torch._dynamo.reset()  # otherwise a UNet would reuse the graph of the previous one
            taken = milliseconds(compiled(load(), by_torch), call, rounds)
            table.add_row(title, f"{min(taken):.2f}", f"{median(taken):.2f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
