"""The product of boxes on layer shapes: the fastest tile, compared with other products.

The entries of ``dgq/ops/triton/tma_tiles.py`` were found this way.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.gates import is_of_gates, seconds_of_gates
from benchmarks.inference.layer_gaps import fp8_seconds
from benchmarks.inference.peaks import seconds_of
from benchmarks.inference.turns import Turns
from dgq.ops.triton import Tile
from dgq.ops.triton.epilogue import Epilogue
from dgq.ops.triton.tma import convolve_boxes, suits
from dgq.ops.triton.tma_tiles import MEASURED, TILES, Shape
from dgq.ops.triton.window import Window

SIDES = {65536: (16, 64), 16384: (16, 32), 4096: (16, 16), 1024: (16, 8)} | {
    8192: (2, 64),
    2048: (2, 32),
    512: (2, 16),
    128: (2, 8),
}
"""Batch and height of Stable Diffusion 1.4's images, by their pixels."""

CANDIDATES = (
    Tile(64, 64, 256, stages=3),
    Tile(128, 64, 256, stages=2),
    Tile(128, 128, 256, stages=2),
    Tile(64, 64, 256, parts=4, stages=3),
    Tile(256, 128, 64, warps=8, stages=4),
    Tile(128, 256, 128, warps=8, stages=3),
    Tile(64, 128, 128, stages=4),
    Tile(128, 64, 128, stages=4),
    Tile(32, 64, 128, stages=4),
)
"""Tiles to try besides those in use."""

SMALL = (Shape(9, 128, 32, 32), Shape(1, 50, 32, 64), Shape(1, 50, 256, 32))
"""Shapes for rehearsals."""


@torch.no_grad()
def measure_shapes(device: str, turns: Turns, rehearse: bool) -> Iterator[dict[str, Any]]:
    """All results so far, after each shape; plain values for JSON."""
    found: list[dict[str, Any]] = []
    tiles = [Tile(32, 32, 32)] if rehearse else [*TILES, *CANDIDATES]
    for shape in SMALL if rehearse else MEASURED:
        operands = drawn(shape, device)
        run_all(operands, tiles)  # compiles
        with turns.alone():
            found.append(measure(shape, operands, tiles, device))
        yield {"shapes": found}


def drawn(shape: Shape, device: str) -> tuple[Tensor, Tensor, Epilogue, Window]:
    """Codes, a weight, tables and a window for a shape."""
    kernel = round(shape.taps**0.5)
    batch, side = SIDES[shape.rows] if kernel > 1 else (1, 1)
    size = (batch, side + 2, side + 2) if kernel > 1 else (1, 1, shape.rows)
    generator = torch.Generator(device).manual_seed(0)

    def whole(*sizes: int) -> Tensor:
        return torch.randint(-128, 128, sizes, generator=generator, device=device, dtype=torch.int8)

    codes = whole(*size, shape.channels)
    weight = whole(shape.out, kernel, kernel, shape.channels)
    ones, zeros = torch.ones(shape.out, device=device), torch.zeros(1, shape.out, device=device)
    epilogue = Epilogue(ones / 1000, ones[:1], zeros, torch.zeros_like(zeros[0, :1]).long())
    return codes, weight, epilogue, Window((kernel, kernel), (1, 1), (0, 0), (1, 1), 1)


def run_all(operands: tuple[Tensor, Tensor, Epilogue, Window], tiles: list[Tile]) -> None:
    """Run each tile once."""
    codes, weight, epilogue, window = operands
    for tile in tiles:
        if suits(codes.shape, weight.shape, window, tile.inputs):
            convolve_boxes(codes, weight, epilogue, window, torch.bfloat16, tile)


def measure(
    shape: Shape,
    operands: tuple[Tensor, Tensor, Epilogue, Window],
    tiles: list[Tile],
    device: str,
) -> dict[str, Any]:
    """Seconds of each tile, of the bfloat16 stock layer, and of an fp8 product of its size."""
    codes, weight, epilogue, window = operands
    seconds = {}
    for tile in tiles:
        if suits(codes.shape, weight.shape, window, tile.inputs):
            run = partial(convolve_boxes, codes, weight, epilogue, window, torch.bfloat16, tile)
            seconds[str(tile)] = seconds_of(run, device)
    best = min(seconds, key=lambda tile: seconds[tile])
    return {
        **shape._asdict(),
        "gated": seconds_of_gates(shape, device) if is_of_gates(shape) else {},
        "tile": best,
        "seconds": seconds[best],
        "bf16_seconds": stock_seconds(codes, weight, window, device),
        "fp8_seconds": fp8_seconds(shape.rows, shape.taps * shape.channels, shape.out, device),
        "of_tiles": seconds,
    }


def stock_seconds(codes: Tensor, weight: Tensor, window: Window, device: str) -> float:
    """Seconds of a convolution or linear layer in bfloat16, with its bias."""
    bias = torch.randn(weight.shape[0], device=device, dtype=torch.bfloat16)
    x, w = torch.randn(codes.shape, device=device), torch.randn(weight.shape, device=device)
    x, w = x.bfloat16(), w.bfloat16()
    if window.is_point:
        return seconds_of(lambda: F.linear(x[0, 0], w.flatten(1), bias), device)
    planes = x[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)
    kernels = w.permute(0, 3, 1, 2)
    torch.backends.cudnn.benchmark = True
    return seconds_of(lambda: F.conv2d(planes, kernels, bias, padding=1), device)
