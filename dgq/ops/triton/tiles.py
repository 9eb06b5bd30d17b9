"""How a product is split among the programs of a GPU."""

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

TILES_AT_ONCE = 8
"""Rows of tiles that are computed together, because they share columns in the cache."""
TUNED_ROWS = 64
"""Rows of a tile, as assumed when the number of parts is chosen."""
TUNED_COLUMNS = 128
MANY_ROWS, LEAST_OF_MANY = 4096, 64 * 128
"""Rows from which on smaller tiles are not tried, and the size that counts as small."""
FEW_ROWS = 1024
"""Rows up to which tiles of more than ``TUNED_ROWS`` are not tried."""
MOST_PARTS = 8
LEAST_BLOCKS = 8
"""Fewest blocks of inputs that a part sums up."""


@triton.jit
def place_of_tile(tile, tiles_m, tiles_n, TILES_AT_ONCE: tl.constexpr):
    """Row and column of a tile: a band of rows passes through all columns before the next band."""
    band = tile // (TILES_AT_ONCE * tiles_n)
    in_band = tl.minimum(tiles_m - band * TILES_AT_ONCE, TILES_AT_ONCE)
    inner = tile % (TILES_AT_ONCE * tiles_n)
    return band * TILES_AT_ONCE + inner % in_band, inner // in_band


@dataclass(frozen=True)
class Tile:
    """The part of a product that one program computes.

    Args:
        rows: pixels or tokens.
        columns: output channels.
        inputs: input channels at a time.
        parts: programs that share the inputs of a tile; their sums are added afterwards.
        warps: number of warps, of 32 threads each.
        stages: number of loads in flight.
    """

    rows: int = 64
    columns: int = 64
    inputs: int = 64
    parts: int = 1
    warps: int = 4
    stages: int = 3

    def options(self) -> dict[str, int]:
        """The tile as a kernel's arguments."""
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
"""Candidates for bytes on tensor cores; Hopper multiplies 64 rows and 32 inputs at least."""


def configurations() -> list[triton.Config]:
    """The candidates as Triton's tuner reads them."""
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
    """Candidates of a size that suits the product: compiling and timing all would take minutes."""
    rows = max(32, triton.next_power_of_2(arguments["n_rows"]))
    columns = max(64, triton.next_power_of_2(arguments["out_channels"]))
    sizes = [(c, c.kwargs["BLOCK_M"], c.kwargs["BLOCK_N"]) for c in candidates]
    least = LEAST_OF_MANY if rows >= MANY_ROWS and columns >= TUNED_COLUMNS else 0
    most = rows if rows >= FEW_ROWS else min(rows, TUNED_ROWS)
    suitable = [c for c, m, n in sizes if m <= most and n <= columns and m * n >= least]
    return suitable or candidates[-1:]


def parts_for(n_rows: int, out_channels: int, n_blocks: int, processors: int) -> int:
    """Number of programs that share a tile, so that all processors are busy.

    Args:
        n_rows: rows of the output.
        out_channels: channels of the output.
        n_blocks: blocks of 64 inputs that are summed up.
        processors: processors of the device.
    """
    tiles = -(-n_rows // TUNED_ROWS) * -(-out_channels // TUNED_COLUMNS)
    wanted = min(processors // tiles, n_blocks // LEAST_BLOCKS, MOST_PARTS)
    return max(1, wanted)
