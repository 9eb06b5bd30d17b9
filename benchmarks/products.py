"""Int8 products of SD 1.4's UNet on a CPU: oneDNN's and our kernel against float32.

    python benchmarks/products.py

All take turns in one process. Prints CPU milliseconds of the fastest call at batch 2. Weights are
at most 64, which oneDNN multiplies exactly on every CPU with AVX2; our kernel takes any.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.kernel_times import command, least_milliseconds
from dgq import ops
from dgq.ops import cpu, onednn

BATCH = 2
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
    table = Table("inputs", "outputs", "size", "kernel", "float32, ms", "oneDNN, ms", "ours, ms")
    for layer in LAYERS:
        milliseconds = compared(*layer, calls)
        table.add_row(*map(str, layer), *(f"{each:.1f}" for each in milliseconds))
    Console().print(table)
    print(f"CPU: {', '.join(cpu.features())}")


def compared(inputs: int, outputs: int, size: int, kernel: int, calls: int) -> list[float]:
    """Milliseconds in float32, by oneDNN and by our kernel.

    Raises:
        RuntimeError: if the sums of oneDNN and our kernel differ.
    """
    pad = kernel // 2
    codes = torch.randint(0, 256, (BATCH, size + 2 * pad, size + 2 * pad, inputs)).byte()
    weight = torch.randint(-64, 65, (outputs, inputs, kernel, kernel)).to(torch.int8)
    plain = weight.contiguous(memory_format=torch.channels_last)
    packed = onednn.pack_conv2d(weight, [1, 1], [1, 1], 1)
    image, filters = codes.permute(0, 3, 1, 2).float(), plain.float()
    tables = torch.ones(outputs), torch.ones(1), torch.zeros(1, outputs), torch.tensor([0])
    window = ([kernel, kernel], [1, 1], [1, 1], 1, torch.float32)

    def by_torch() -> Tensor:
        return F.conv2d(image, filters)

    def by_onednn() -> Tensor:
        return ops.int_conv2d(codes, packed, *tables, *window)  # type: ignore[no-any-return]

    def ours() -> Tensor:
        return ops.int_conv2d(codes, plain, *tables, *window)  # type: ignore[no-any-return]

    if not torch.equal(by_onednn(), ours()):
        raise RuntimeError("the kernels do not compute the same")
    return least_milliseconds((by_torch, by_onednn, ours), calls)


if __name__ == "__main__":
    raise SystemExit(main())
