"""The layout of byte weights for tiles (AMX): ``tile_products.cpp`` reads it.

A tile holds the weights of 16 output channels and 64 inputs, four inputs of every channel after
another: ``[panel, block, 1024]``, panels of 16 channels, blocks of 64 inputs.
"""

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
    """An int8 weight ``[out, n]`` in tiles, zero padded; ``n`` as codes are ordered in windows."""
    n_out, n_in = weight.shape
    panels, blocks, _ = shape(n_out, n_in)
    padded = F.pad(weight, (0, blocks * DEPTH - n_in, 0, panels * LANES - n_out))
    words = padded.contiguous().view(torch.int32).view(panels, LANES, blocks, DEPTH // WORD)
    return words.permute(0, 2, 3, 1).contiguous().view(torch.int8).flatten(2)


def from_tiles(tiles: Tensor, n_out: int, n_in: int) -> Tensor:
    """The weight ``[out, n]`` that ``in_tiles`` was given."""
    panels, blocks = tiles.shape[:2]
    words = tiles.reshape(panels, blocks, DEPTH // WORD, LANES, WORD)
    rows = words.permute(0, 3, 1, 2, 4).reshape(panels * LANES, blocks * DEPTH)
    return rows[:n_out, :n_in].contiguous()


def is_in_tiles(weight: Tensor) -> bool:
    """Whether a weight is in this layout."""
    return weight.ndim == DIMENSIONS
