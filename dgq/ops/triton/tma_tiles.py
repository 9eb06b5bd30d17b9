"""The tile for a product of boxes: the fastest one at the nearest measured shape."""

import math
from functools import lru_cache
from typing import NamedTuple

from dgq.ops.triton.tiles import Tile

HUGE = Tile(256, 128, 128, warps=8, stages=3)
TALL = Tile(256, 64, 64, warps=4, stages=4)
LARGE = Tile(128, 128, 128, warps=4, stages=3)
USUAL = Tile(128, 128, 64, warps=4, stages=4)
SMALL = Tile(64, 64, 128, warps=4, stages=4)
SHARED = Tile(64, 64, 128, parts=4, warps=4, stages=4)
NARROW = Tile(16, 64, 128, warps=4, stages=5)

TILES = (HUGE, TALL, LARGE, USUAL, SMALL, SHARED, NARROW)
"""At each measured shape, one of these was within 3 % of the fastest of the 26 that were tried."""


class Shape(NamedTuple):
    """Shape of a product.

    Args:
        taps: taps of the window.
        rows: pixels or tokens of the output.
        out: channels of the output.
        channels: channels of the input.
    """

    taps: int
    rows: int
    out: int
    channels: int

    def distance(self, other: "Shape") -> float:
        """Doublings between two shapes; different taps outweigh everything else."""
        ratios = (math.log2(a / b) for a, b in zip(self, other, strict=True))
        return sum(weight * abs(r) for weight, r in zip((4, 1, 1, 1), ratios, strict=True))


MEASURED = {
    Shape(9, 65536, 320, 320): TALL,
    Shape(9, 65536, 320, 640): HUGE,
    Shape(9, 65536, 320, 960): HUGE,
    Shape(9, 65536, 640, 640): LARGE,
    Shape(9, 16384, 640, 640): LARGE,
    Shape(9, 16384, 640, 1280): LARGE,
    Shape(9, 16384, 1280, 1280): LARGE,
    Shape(9, 16384, 320, 320): USUAL,
    Shape(9, 8192, 320, 320): TALL,
    Shape(9, 8192, 320, 640): LARGE,
    Shape(9, 4096, 1280, 1280): USUAL,
    Shape(9, 4096, 1280, 2560): USUAL,
    Shape(9, 4096, 640, 640): LARGE,
    Shape(9, 2048, 640, 640): SMALL,
    Shape(9, 2048, 640, 1280): SMALL,
    Shape(9, 1024, 1280, 1280): SMALL,
    Shape(9, 1024, 1280, 2560): SMALL,
    Shape(9, 512, 1280, 1280): SMALL,
    Shape(9, 512, 1280, 2560): SMALL,
    Shape(9, 128, 1280, 1280): SHARED,
    Shape(9, 128, 1280, 2560): SHARED,
    Shape(1, 65536, 320, 320): USUAL,
    Shape(1, 65536, 2560, 320): USUAL,
    Shape(1, 65536, 320, 1280): TALL,
    Shape(1, 16384, 640, 640): USUAL,
    Shape(1, 16384, 5120, 640): USUAL,
    Shape(1, 16384, 640, 2560): LARGE,
    Shape(1, 8192, 320, 320): USUAL,
    Shape(1, 8192, 2560, 320): USUAL,
    Shape(1, 8192, 320, 1280): LARGE,
    Shape(1, 4096, 1280, 1280): USUAL,
    Shape(1, 4096, 10240, 1280): USUAL,
    Shape(1, 4096, 1280, 5120): USUAL,
    Shape(1, 2048, 640, 640): SMALL,
    Shape(1, 2048, 5120, 640): USUAL,
    Shape(1, 2048, 640, 2560): SMALL,
    Shape(1, 1232, 640, 768): SMALL,
    Shape(1, 512, 1280, 1280): SMALL,
    Shape(1, 512, 10240, 1280): USUAL,
    Shape(1, 512, 1280, 5120): SMALL,
    Shape(1, 154, 640, 768): NARROW,
    Shape(1, 16, 1280, 1280): NARROW,
}
"""Measured on an H200 with SD 1.4's layers at batches of 2 and 16; see ``docs/how-to/gpu.md``."""


@lru_cache
def tile_for(shape: Shape) -> Tile:
    """The tile of the nearest measured shape."""
    return MEASURED[min(MEASURED, key=shape.distance)]
