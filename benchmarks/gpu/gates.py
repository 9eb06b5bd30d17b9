"""A product with GEGLU and quantization in one kernel: its codes, and the fastest tile."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.exactness import outcome
from benchmarks.inference.peaks import seconds_of
from dgq.ops import reference, triton
from dgq.ops.triton import Tile
from dgq.ops.triton.gated import TILE
from dgq.ops.triton.tma_tiles import Shape

CANDIDATES = (
    TILE,
    Tile(128, 64, 128, warps=4, stages=3),
    Tile(128, 128, 64, warps=8, stages=4),
    Tile(256, 64, 64, warps=8, stages=4),
    Tile(64, 64, 128, warps=4, stages=4),
)
"""Columns are those of values; there are as many columns of gates."""

TO_REHEARSE = (Tile(32, 32, 32),)
MOST_DIFFERENT = 1e-3
"""Accepted share of neighbouring codes: quotients midway between two may round differently."""


def check_gates(device: str, channels: int) -> dict[str, Any]:
    """Results of all tiles as plain values for JSON: which codes are wrong, or what failed."""
    operands = drawn(Shape(1, 300, 8 * channels, channels), device)
    expected = reference.int_linear_gated(*operands)
    results = {}
    for tile in tiles(device):
        results[str(tile)] = outcome(runs(operands, tile), expected, agrees)
    return {"case": "gated", "tiles": results, "exact": set(results.values()) == {"exact"}}


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Whether codes are the expected ones, except for a few neighbours."""
    different = (found.int() - expected.int()).abs()
    return int(different.max()) <= 1 and float(different.float().mean()) <= MOST_DIFFERENT


def seconds_of_gates(shape: Shape, device: str) -> dict[str, float]:
    """Seconds of each tile, on the layer of a GEGLU."""
    operands = drawn(shape, device)
    return {str(tile): seconds_of(runs(operands, tile), device) for tile in tiles(device)}


def runs(operands: tuple[Any, ...], tile: Tile) -> Callable[[], Tensor]:
    """A function that runs the product with a tile."""
    function: Any = triton.int_linear_gated
    return lambda: function(*operands, tile=tile)


def is_of_gates(shape: Shape) -> bool:
    """Whether a shape is that of the first layer of a feed-forward block."""
    return shape.taps == 1 and shape.out == 8 * shape.channels


def tiles(device: str) -> Iterator[Tile]:
    """The tiles to try; only a small one in an interpreter."""
    yield from CANDIDATES if device.startswith("cuda") else TO_REHEARSE


def drawn(shape: Shape, device: str) -> tuple[Any, ...]:
    """Random operands whose codes cover the whole range."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (1, shape.rows, shape.channels), generator=generator)
    weight = torch.randint(-128, 128, (shape.out, shape.channels), generator=generator)
    half = shape.out // 2
    tensors = (
        *(codes.to(torch.int8), weight.to(torch.int8)),
        *(torch.full((shape.out,), 2e-4 / shape.channels**0.5), torch.ones(1)),
        *(torch.randn(1, shape.out, generator=generator), torch.zeros(1).long()),
        *(torch.full((1,), 0.02), torch.ones(half)),
        *(torch.full((1, half), 100, dtype=torch.int16), torch.ones(half)),
    )
    return (*(tensor.to(device) for tensor in tensors), 255, 128)
