"""How many rows of a matrix stay in a processor's cache while several operations pass over them."""

import torch

CACHED_ELEMENTS = 2**18
"""Number of float32 values that a CPU works on at a time: a megabyte."""


def cached_rows(n_rows: int, n_columns: int, device: torch.device) -> int:
    """Number of rows to work on at a time: all rows, except on a CPU that runs op by op."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return n_rows
    return max(1, CACHED_ELEMENTS // max(1, n_columns))
