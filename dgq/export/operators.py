"""The two operators that engines recognise int8 by: codes of a tensor, and a weight of bytes."""

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
    """An int8 weight, for engines that multiply it exactly."""
    return weight


@dataclass(frozen=True)
class Operators:
    """The operators in the form that one engine's converter reads.

    Args:
        codes: as ``codes`` above.
        dequantized: as ``dequantized`` above, of a weight as it is stored.
        stored: an int8 weight as the engine is to store it.
    """

    codes: Callable[[Tensor], Tensor] = codes
    dequantized: Callable[[Tensor, Tensor], Tensor] = dequantized
    stored: Callable[[Tensor], Tensor] = as_it_is


PLAIN = Operators()
"""The operators in plain torch."""
