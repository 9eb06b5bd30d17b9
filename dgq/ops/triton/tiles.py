"""How a product is cut into programs of a GPU."""

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

TILES_AT_ONCE = 8
"""Rows of tiles that are computed together, since they share columns in the cache."""
TUNED_ROWS = 64
"""Rows of a tile that the number of parts is computed for."""
TUNED_COLUMNS = 128
MANY_ROWS, LEAST_OF_MANY = 4096, 64 * 128
"""Rows from which on smaller tiles are not tried."""
FEW_ROWS = 1024
"""Rows up to which tiles of more than ``TUNED_ROWS`` are not tried."""
MOST_PARTS = 8
LEAST_BLOCKS = 8
"""Blocks of inputs that a part sums up, at least."""


@triton.jit
def place_of_tile(tile, tiles_m, tiles_n, TILES_AT_ONCE: tl.constexpr):
    """Row and column of a tile among all: some rows after each other go through all columns."""
    band = tile // (TILES_AT_ONCE * tiles_n)
    in_band = tl.minimum(tiles_m - band * TILES_AT_ONCE, TILES_AT_ONCE)
    inner = tile % (TILES_AT_ONCE * tiles_n)
    return band * TILES_AT_ONCE + inner % in_band, inner // in_band


@dataclass(frozen=True)
class Tile:
    """What one program computes.

    Args:
        rows: pixels or tokens.
        columns: output channels.
        inputs: input channels at a time.
        parts: programs that share the inputs of a tile; their sums are added afterwards.
        warps: of 32 threads.
        stages: of loads that are under way.
    """

    rows: int = 64
    columns: int = 64
    inputs: int = 64
    parts: int = 1
    warps: int = 4
    stages: int = 3

    def options(self) -> dict[str, int]:
        """As a kernel takes them."""
        return {
            **{"BLOCK_M": self.rows, "BLOCK_N": self.columns, "BLOCK_K": self.inputs},
            **{"num_warps": self.warps, "num_stages": self.stages},
        }


CANDIDATES = (
    Tile(128, 256, 64, warps=8, stages=3),
    Tile(128, 128, 128, warps=8, stages=3),
    Tile(128, 128, 64, warps=4, stages=4),
    Tile(64, 128, 128, warps=4, stages=4),
    Tile(64, 64, 128, warps=4, stages=4),
    Tile(64, 64, 64, warps=4, stages=5),
    Tile(32, 64, 128, warps=4, stages=4),
)
"""Of bytes on tensor cores; Hopper multiplies at least 64 rows and 32 inputs at a time."""


def configurations() -> list[triton.Config]:
    """The candidates as Triton's tuner takes them."""
    return [
        triton.Config(
            {"BLOCK_M": t.rows, "BLOCK_N": t.columns, "BLOCK_K": t.inputs},
            num_warps=t.warps,
            num_stages=t.stages,
        )
        for t in CANDIDATES
    ]


def worth_trying(
    candidates: list[triton.Config], arguments: dict[str, Any], **_: Any
) -> list[triton.Config]:
    """Those of a size that suits the product: compiling and timing all would take minutes."""
    rows = max(32, triton.next_power_of_2(arguments["n_rows"]))
    columns = max(64, triton.next_power_of_2(arguments["out_channels"]))
    sizes = [(c, c.kwargs["BLOCK_M"], c.kwargs["BLOCK_N"]) for c in candidates]
    least = LEAST_OF_MANY if rows >= MANY_ROWS and columns >= TUNED_COLUMNS else 0
    most = rows if rows >= FEW_ROWS else min(rows, TUNED_ROWS)
    suitable = [c for c, m, n in sizes if m <= most and n <= columns and m * n >= least]
    return suitable or candidates[-1:]


def parts_for(n_rows: int, out_channels: int, n_blocks: int, processors: int) -> int:
    """How many programs share a tile, so that all processors have something to do.

    Args:
        n_rows: of the output.
        out_channels: of the output.
        n_blocks: of inputs, of 64 each, that are summed up.
        processors: of the device.
    """
    tiles = -(-n_rows // TUNED_ROWS) * -(-out_channels // TUNED_COLUMNS)
    wanted = min(processors // tiles, n_blocks // LEAST_BLOCKS, MOST_PARTS)
    return max(1, wanted)
