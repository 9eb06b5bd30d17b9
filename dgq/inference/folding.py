"""Folding of exponents: the weight and the bias of one integer product (docs/method.md).

With activations ``x = s[t] 2^-k[c] (q - z[t, c])`` and weights ``w = sw[o] 2^-e[o, c] v[o, c]``,
all ``2^-k 2^-e`` are whole numbers times ``2^-(K + E)``, with the largest exponents ``K``, ``E``::

    y = s[t] sw[o] 2^-(K + E) (sum_c q' v'  -  sum_c z' v') + bias
    q' = q 2^a[c],  z' = z 2^a[c],  v' = v 2^(K - k[c] - a[c] + E - e[o, c])

The shifts ``a`` fill what bits the activations' codes leave free; ``v'`` has to fit into s8.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dgq.exponents import shared_shift
from dgq.inference.geometry import ConvGeometry, Geometry

LARGEST_SUM = 2**31 - 1


class Shifts(NamedTuple):
    """How exponents of an activation's channels are shared over both operands.

    Args:
        codes: ``[channels]``, of the activation codes (``a`` above).
        weight: ``[channels]``, of the weights.
        total: ``K``, the largest exponent.
    """

    codes: Tensor
    weight: Tensor
    total: int


def channel_shifts(exponent: Tensor, n_bits: int, channels: int) -> Shifts:
    """Shifts for exponents ``[channels]``, or for one that all channels have."""
    exponent = exponent.expand(channels) if exponent.numel() == 1 else exponent
    total = int(exponent.max())
    return Shifts(*shared_shift(exponent, total, n_bits), total)


def weight_shifts(shifts: Shifts, geometry: Geometry) -> Tensor:
    """How far each weight is shifted up for its input channel, ``[out or 1, n]``."""
    if not isinstance(geometry, ConvGeometry):
        return shifts.weight[None]
    n_pixels = geometry.kernel[0] * geometry.kernel[1]
    by_group = shifts.weight.view(geometry.groups, -1).repeat_interleave(n_pixels, 1)
    if geometry.groups == 1:
        return by_group
    # Of a grouped convolution each output channel sees the inputs of its own group.
    return by_group.repeat_interleave(geometry.out_channels // geometry.groups, 0)


def group_shifts(exponent: Tensor | None) -> Tensor | int:
    """How far each weight is shifted up for its group of inputs, by exponents ``[out, n]``."""
    return 0 if exponent is None else largest_exponent(exponent) - exponent.to(torch.int32)


def largest_exponent(exponent: Tensor | None) -> int:
    """The largest of a weight's exponents, 0 without any."""
    return 0 if exponent is None else int(exponent.max())


def fits(weight: Tensor, inputs: int) -> bool:
    """Whether shifted weights fit into s8, and their products with u8 into 32 bits."""
    in_s8 = int(weight.min()) >= -128 and int(weight.max()) <= 127
    return in_s8 and 255 * 128 * inputs <= LARGEST_SUM


def zero_point_sums(weight: Tensor, zero_point: Tensor, geometry: Geometry) -> Tensor:
    """``sum_c z'[t, c] v'[o, c]``, float64 ``[steps, out]``.

    Args:
        weight: int8 ``[out, n]``.
        zero_point: ``[steps, channels]``, shifted.
        geometry: of the layer.
    """
    groups = geometry.groups if isinstance(geometry, ConvGeometry) else 1
    by_channel = weight.view(weight.shape[0], geometry.in_channels // groups, -1)
    sums = by_channel.sum(2, dtype=torch.int32).double().view(groups, -1, by_channel.shape[1])
    zeros = zero_point.double().view(zero_point.shape[0], groups, -1)
    return torch.einsum("goc,sgc->sgo", sums, zeros).flatten(1)
