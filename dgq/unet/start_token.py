"""The ``<start>`` token: every text begins with it, and much of the attention goes to it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def but_start(quantize: Callable[[Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
    """Quantize all tokens but the first along a dimension.

    A single token is quantized like any other.
    """
    if x.shape[dim] == 1:
        return quantize(x)
    first, rest = x.tensor_split([1], dim)
    return torch.cat([first, quantize(rest)], dim)


def quantized_tokens(quantizer: nn.Module, tokens: Tensor, keep_start: bool) -> Any:
    """Quantized tokens ``[batch, tokens, channels]``, except for a kept ``<start>`` token."""
    if isinstance(quantizer, nn.Identity):
        return tokens  # nothing is quantized, so there is nothing to split
    return but_start(quantizer, tokens, 1) if keep_start else quantizer(tokens)
