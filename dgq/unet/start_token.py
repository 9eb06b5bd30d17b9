"""The ``<start>`` token, which every text begins with and much of the attention goes to."""

from collections.abc import Callable

import torch
from torch import Tensor


def but_start(quantize: Callable[[Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """Quantize all tokens but the first along a dimension.

    Where there is only one token, it is quantized as any other.
    """
    if x.shape[dim] == 1:
        return quantize(x)
    first, rest = x.tensor_split([1], dim)
    return torch.cat([first, quantize(rest)], dim)
