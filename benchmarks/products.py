"""Int8 products of SD 1.4's UNet on a CPU: oneDNN's and our kernels against float32.

    python benchmarks/products.py

All take turns in one process. Prints CPU milliseconds of the fastest call at batch 2. For oneDNN
weights are at most 64, which it multiplies exactly on every CPU with AVX2. For our kernels they use
the whole byte. The kernel for AMX takes as long for all codes; on other CPUs activations have fewer
and fewer bits. Outputs are bfloat16 on CPUs that compute in it.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from benchmarks.kernel_times import command, least_milliseconds
from dgq import ops
from dgq.inference.products.cpu import CpuProducts
from dgq.ops import cpu, onednn, tile_layout

BATCH = 2
BITS = (8, 7, 6, 5, 4)
WIDTH = 130
"""Columns of text; the usual 80 would break each row."""
LAYERS = [
    *((320, 320, 64, 3), (640, 640, 32, 3), (1280, 1280, 16, 3), (1280, 1280, 8, 3)),
    *((2560, 1280, 16, 3), (320, 320, 64, 1), (320, 2560, 64, 1), (1280, 320, 64, 1)),
    *((640, 5120, 32, 1), (1280, 10240, 16, 1), (5120, 1280, 16, 1)),
]
"""Channels of the input and the output, height and width, and size of the kernel."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 0, or 2 after one line about bad input."""
    return command(__doc__.partition("\n")[0], run, argv)


def run(calls: int) -> None:
    """Print the table."""
    ours = ("on AMX",) if cpu.has_tile_products() else ("W7A8", *(f"W8A{bits}" for bits in BITS))
    table = Table(
        Column("layer", no_wrap=True),
        "float32",
        "oneDNN, W7A8",
        *(f"ours, {name}" for name in ours),
    )
    for layer in LAYERS:
        milliseconds = compared(*layer, calls)
        inputs, outputs, size, kernel = layer
        name = f"{kernel}x{kernel}, {inputs} to {outputs}, {size}x{size}"
        table.add_row(name, *(f"{each:.1f}" for each in milliseconds))
    Console(width=WIDTH).print(table)
    print(f"CPU: {', '.join(cpu.features())}")


def compared(inputs: int, outputs: int, size: int, kernel: int, calls: int) -> list[float]:
    """Milliseconds in float32, by oneDNN and by our kernel; without AMX also for each of ``BITS``.

    Raises:
        RuntimeError: if the sums of oneDNN and our kernel differ.
    """
    pad = kernel // 2
    shape = (BATCH, size + 2 * pad, size + 2 * pad, inputs)
    codes = torch.randint(0, 256, shape).byte()
    weight = torch.randint(-64, 65, (outputs, inputs, kernel, kernel)).to(torch.int8)
    on_amx = cpu.has_tile_products()
    ordered = tile_layout.in_tiles if on_amx else plain_order
    whole = torch.randint_like(plain_order(weight), -127, 128)
    packed = onednn.pack_conv2d(weight, [1, 1], [1, 1], 1)
    image, filters = codes.permute(0, 3, 1, 2).float(), plain_order(weight).float()
    tables = torch.ones(outputs), torch.ones(1), torch.zeros(1, outputs), torch.tensor([0])
    window = ([kernel, kernel], [1, 1], [1, 1], 1)

    def by_torch() -> Tensor:
        return F.conv2d(image, filters)

    def product(codes: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        return ops.int_conv2d(codes, weight, *tables, *window, dtype)  # type: ignore[no-any-return]

    operands = [(codes, packed), (codes, ordered(weight))]
    if not torch.equal(*(product(*both, torch.float32) for both in operands)):
        raise RuntimeError("the kernels do not compute the same")
    if not on_amx:
        of_bits = (torch.randint(0, 2**bits, shape).byte() for bits in BITS)
        operands += [(codes, ordered(whole)) for codes in of_bits]
    dtype = CpuProducts().best_dtype()
    products = [partial(product, *both, dtype) for both in operands]
    return least_milliseconds((by_torch, *products), calls)


def plain_order(weight: Tensor) -> Tensor:
    """A weight as our kernel for other CPUs reads it."""
    return weight.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    raise SystemExit(main())
