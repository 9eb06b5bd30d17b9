"""Attention of SD 1.4's UNet on a CPU in bfloat16: our kernel against torch's.

    python benchmarks/attention.py

Both take turns in one process. Prints CPU milliseconds of the fastest call at batch 2, and the
signal-to-noise ratio of the output against float64.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.kernel_times import command, least_milliseconds
from dgq import ops
from dgq.math.reconstruction import sqnr_db

BATCH, HEADS = 2, 8
SIZES = [(4096, 40), (1024, 80), (256, 160), (64, 160)]
"""Queries and head dimension, for 64x64 latents."""
TEXT_TOKENS = 77


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 0, or 2 after one line about bad input."""
    return command(__doc__.partition("\n")[0], run, argv)


def run(calls: int) -> None:
    """Print the table."""
    table = Table("queries", "keys", "head dim", "torch, ms", "ours, ms", "torch, dB", "ours, dB")
    for n_queries, dim in SIZES:
        for n_keys in (n_queries, TEXT_TOKENS):
            found = compared(n_queries, n_keys, dim, calls)
            table.add_row(str(n_queries), str(n_keys), str(dim), *found)
    Console().print(table)


def compared(n_queries: int, n_keys: int, dim: int, calls: int) -> list[str]:
    """Milliseconds of both kernels, then the accuracy of both in dB."""
    shapes = [(BATCH, n, HEADS * dim) for n in (n_queries, n_keys, n_keys)]
    operands = [torch.randn(shape).bfloat16() for shape in shapes]
    kernels: list[Callable[..., Tensor]] = [by_torch, ours]
    milliseconds = least_milliseconds([partial(k, *operands) for k in kernels], calls)
    exact = by_torch(*(x.double() for x in operands))
    noise = [sqnr_db(kernel(*operands).double(), exact).item() for kernel in kernels]
    return [f"{each:.1f}" for each in milliseconds] + [f"{db:.1f}" for db in noise]


def by_torch(*operands: Tensor) -> Tensor:
    """Torch's attention of query, key and value ``[batch, tokens, heads x dims]``."""
    query, key, value = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in operands)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by our kernel."""
    output: Tensor = ops.attention(query, key, value, HEADS, (query.shape[-1] // HEADS) ** -0.5)
    return output


if __name__ == "__main__":
    raise SystemExit(main())
