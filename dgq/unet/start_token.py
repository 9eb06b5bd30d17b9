"""The ``<start>`` token: every text begins with it, and much of the attention goes to it."""

from collections.abc import Callable

import torch
from torch import Tensor


def but_start(quantize: Callable[[Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """Quantize all tokens but the first along a dimension.

    A single token is quantized like any other.
    """
    if x.shape[dim] == 1:
        return quantize(x)
    first, rest = x.tensor_split([1], dim)
    return torch.cat([first, quantize(rest)], dim)
