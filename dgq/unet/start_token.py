"""The ``<start>`` token: every text begins with it, and much of the attention goes to it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dgq.settings import QuantizationSettings


class KeptStart(NamedTuple):
    """Where an attention keeps the ``<start>`` token in full precision.

    Args:
        scores: in its keys and scores.
        text: in the text from which its keys and values are computed.
    """

    scores: bool = False
    text: bool = False


def kept_start(settings: QuantizationSettings, name: str, is_cross: bool) -> KeptStart:
    """Where an attention, given by name, keeps the token; only cross-attention reads one."""
    if not is_cross:
        return KeptStart()
    return KeptStart(
        settings.scores.keep_start_token, settings.activations_of(name).keep_start_token
    )


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
