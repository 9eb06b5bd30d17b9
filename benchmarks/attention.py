"""Attention of SD 1.4's UNet on a CPU in bfloat16: our kernel against torch's.

    python benchmarks/attention.py

Both take turns in one process. Milliseconds of processor time of the fastest call, batch 2, and the
signal-to-noise ratio of the output against float64.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.scripts import exit_code
from dgq import ops
from dgq.math.reconstruction import sqnr_db
from dgq.settings.checks import check_positive

BATCH, HEADS = 2, 8
SIZES = [(4096, 40), (1024, 80), (256, 160), (64, 160)]
"""Queries and dims of a head, of 64x64 latents."""
TEXT_TOKENS = 77


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 after one line about bad input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--calls", type=int, default=5, help="of each kernel (default: 5)")
    return exit_code(lambda: run(parser.parse_args(argv)))


@torch.no_grad()
def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    check_positive("--threads", arguments.threads)
    check_positive("--calls", arguments.calls)
    torch.set_num_threads(arguments.threads)
    table = Table("queries", "keys", "head dim", "torch, ms", "ours, ms", "torch, dB", "ours, dB")
    for n_queries, dim in SIZES:
        for n_keys in (n_queries, TEXT_TOKENS):
            found = compared(n_queries, n_keys, dim, arguments.calls)
            table.add_row(str(n_queries), str(n_keys), str(dim), *found)
    Console().print(table)


def compared(n_queries: int, n_keys: int, dim: int, calls: int) -> list[str]:
    """Milliseconds of both kernels, then the exactness of both in decibels."""
    shapes = [(BATCH, n, HEADS * dim) for n in (n_queries, n_keys, n_keys)]
    operands = [torch.randn(shape).bfloat16() for shape in shapes]
    kernels: list[Callable[..., Tensor]] = [by_torch, ours]
    seconds: list[list[float]] = [[], []]
    for _ in range(calls):
        for kernel, taken in zip(kernels, seconds, strict=True):
            started = time.process_time()
            kernel(*operands)
            taken.append(time.process_time() - started)
    exact = by_torch(*(x.double() for x in operands))
    noise = [sqnr_db(kernel(*operands).double(), exact).item() for kernel in kernels]
    return [f"{1e3 * min(taken):.1f}" for taken in seconds] + [f"{db:.1f}" for db in noise]


def by_torch(*operands: Tensor) -> Tensor:
    """Of query, key and value ``[batch, tokens, heads x dims]``."""
    query, key, value = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in operands)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As ``by_torch``."""
    output: Tensor = ops.attention(query, key, value, HEADS, (query.shape[-1] // HEADS) ** -0.5)
    return output


if __name__ == "__main__":
    raise SystemExit(main())
