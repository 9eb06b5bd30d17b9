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
        dtype: of what was quantized.
        of_zero: codes of zeros of each sample, ``[batch, channels]``, where zero points are its
            own; None where biases hold what they add.
        of_sum: where these codes are of the last part of a sum, what the sum is.
    """

    codes: Tensor
    scale: Tensor
    step: Tensor
    dtype: torch.dtype
    of_zero: Tensor | None = None
    of_sum: "OfSum | None" = None


class OfSum(NamedTuple):
    """A sum of quantized tensors of which the codes of the last one are new.

    Args:
        first: the codes of all the rest, where there was no call before.
        before: the rest, float32, channels last.
        total: the sum, without padding.
    """

    first: QuantizedTensor | None
    before: Tensor
    total: Tensor
