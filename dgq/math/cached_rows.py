"""How many rows of a matrix stay in a processor's cache while several operations pass over them."""

import torch

CACHED_ELEMENTS = 2**18
"""Values of float32 that are worked on at a time on a CPU: a megabyte."""


def cached_rows(n_rows: int, n_columns: int, device: torch.device) -> int:
    """Rows to work on at a time: all but on a CPU that runs operation by operation."""
    if device.type != "cpu" or torch.compiler.is_compiling():
        return n_rows
    return max(1, CACHED_ELEMENTS // n_columns)
