"""The two operators that engines recognise int8 by: codes of a tensor, and an 8-bit weight."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 255
"""Largest code of a tensor, for all bits: codes times their factors fill a byte."""


def codes(x: Tensor) -> Tensor:
    """``clamp(round(x), 0, 255)``: quantized and dequantized with the scale 1."""
    return torch.fake_quantize_per_tensor_affine(x, 1.0, 0, 0, LARGEST)


def dequantized(weight: Tensor, scale: Tensor) -> Tensor:
    """An int8 weight ``[out, ...]`` times a scale for each output channel."""
    return weight.float() * scale.view(-1, *[1] * (weight.ndim - 1))


def as_it_is(weight: Tensor) -> Tensor:
    """The weight unchanged, for engines that multiply int8 weights exactly."""
    return weight


@dataclass(frozen=True)
class Operators:
    """The operators in the form that one engine's converter reads.

    Args:
        codes: the engine's form of ``codes`` above.
        dequantized: the engine's form of ``dequantized`` above, for a weight as it is stored.
        stored: converts an int8 weight to what the engine stores.
    """

    codes: Callable[[Tensor], Tensor] = codes
    dequantized: Callable[[Tensor, Tensor], Tensor] = dequantized
    stored: Callable[[Tensor], Tensor] = as_it_is


PLAIN = Operators()
"""The operators in plain torch."""
