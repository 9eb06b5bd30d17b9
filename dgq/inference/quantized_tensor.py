"""A quantized activation as one thing: codes, and what they stand for."""

from typing import NamedTuple

import torch
from torch import Tensor


class QuantizedTensor(NamedTuple):
    """Codes of an activation, on the way to the operators that multiply them.

    ``x = scale[step] * multiple * ((codes + offset) / factor - zero_point)``; multiples, factors,
    offset and zero points are part of the weights and biases of every layer that reads it.

    Args:
        codes: uint8, or int8 with an offset, channels last, and padded if a convolution reads it.
        scale: ``[steps]`` or ``[1]``.
        step: ``[1]`` or ``[batch]``, the row of ``scale`` of each sample.
        dtype: dtype of the activation before quantization.
        of_zero: codes of zero for each sample, ``[batch, channels]``, if each sample has zero
            points of its own; None if biases hold the contribution of zero points.
        of_sum: the sum whose last part these codes are; None if they are no part of a sum.
    """

    codes: Tensor
    scale: Tensor
    step: Tensor
    dtype: torch.dtype
    of_zero: Tensor | None = None
    of_sum: "OfSum | None" = None


class OfSum(NamedTuple):
    """A sum of quantized tensors, of which only the last one has new codes.

    Args:
        first: codes of the rest of the sum, if there was no call before.
        before: the rest of the sum, float32, channels last.
        total: the sum, without padding.
    """

    first: QuantizedTensor | None
    before: Tensor
    total: Tensor
