"""The layout of byte weights for tiles (AMX): ``tile_products.cpp`` reads it.

A tile holds the weights of 16 output channels and 64 inputs, four inputs of every channel after
another: ``[panel, block, 1024]``, panels of 16 channels, blocks of 64 inputs.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
"""Output channels of a tile."""

DEPTH = 64
"""Inputs of a tile."""

DIMENSIONS = 3
"""Dimensions of a weight in tiles, which no other weight has."""

WORD = 4
"""Inputs that an instruction multiplies at a time."""


def shape(n_out: int, n_in: int) -> tuple[int, int, int]:
    """The shape in tiles of a weight ``[out, n]``."""
    return -(-n_out // LANES), -(-n_in // DEPTH), LANES * DEPTH


def in_tiles(weight: Tensor) -> Tensor:
    """An int8 weight ``[out, in, ...]`` in tiles, zero padded; its inputs in the order of windows.

    Windows are ordered by pixel, then by channel.
    """
    rows = weight.movedim(1, -1).flatten(1)
    n_out, n_in = rows.shape
    panels, blocks, _ = shape(n_out, n_in)
    padded = F.pad(rows, (0, blocks * DEPTH - n_in, 0, panels * LANES - n_out))
    words = padded.contiguous().view(torch.int32).view(panels, LANES, blocks, DEPTH // WORD)
    return words.permute(0, 2, 3, 1).contiguous().view(torch.int8).flatten(2)


def from_tiles(tiles: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """The weight of this shape ``[out, in, ...]`` that ``in_tiles`` was given."""
    n_out, channels, *kernel = weight_shape
    panels, blocks = tiles.shape[:2]
    words = tiles.reshape(panels, blocks, DEPTH // WORD, LANES, WORD)
    rows = words.permute(0, 3, 1, 2, 4).reshape(panels * LANES, blocks * DEPTH)
    windows = rows[:n_out, : channels * prod(kernel)].reshape(n_out, *kernel, channels)
    return windows.movedim(-1, 1).contiguous()


def is_in_tiles(weight: Tensor) -> bool:
    """Whether a weight is in this layout."""
    return weight.ndim == DIMENSIONS
