"""Folding: the weight and the bias of one integer product (docs/explanation/method.md).

With activations ``x = s[t] m[c] (q - z[t, c])``, whose multiples are ``m = a b``, and weights
``w = sw[o] 2^-e[o, c] v[o, c]``, whose largest exponent is ``E``::

    y = s[t] sw[o] 2^-E (sum_c q' v'  -  sum_c z' v') + bias
    q' = a[c] q,   z' = a[c] z[t, c],   v' = b[c] 2^(E - e[o, c]) v[o, c]

``a`` uses the bits that the codes leave free in u8; ``b`` and the exponents those that the weights
leave free in s8.
"""

import torch
from torch import Tensor

from dgq.unet.geometry import Geometry

FOLDED_AT_ONCE = 2**18
"""Number of weights that are folded at a time, so that intermediate results stay in the cache."""

LARGEST_PRODUCT = 255 * 128
"""Of a code and a weight."""


def largest_exponent(exponent: Tensor | None) -> int:
    """The largest of a weight's exponents, 0 without any."""
    return 0 if exponent is None else int(exponent.max())


def fits(weight: Tensor, inputs: int) -> bool:
    """Whether multiplied weights fit into s8, and their products with u8 into 32 bits."""
    least, most = weight.aminmax()
    sums_fit = LARGEST_PRODUCT * inputs < 2**31
    return int(least) >= -128 and int(most) <= 127 and sums_fit


def zero_point_sums(weight: Tensor, zero_point: Tensor, geometry: Geometry) -> Tensor:
    """``sum_c z'[t, c] v'[o, c]``, float64 ``[steps, out]``.

    Args:
        weight: int8 ``[out, n]``.
        zero_point: ``[steps, channels]``, times the factors of the codes.
        geometry: of the layer.
    """
    own_channels = geometry.in_channels // geometry.groups
    taps = weight.shape[1] // own_channels
    by_group = weight.view(geometry.groups, -1, own_channels, taps)
    zeros = zero_point.double().view(zero_point.shape[0], geometry.groups, -1)
    sums = [
        torch.einsum("goc,sgc->sgo", sums_of_taps(rows).double(), zeros)
        for rows in by_group.split(max(1, FOLDED_AT_ONCE // weight.shape[1]), 1)
    ]
    return torch.cat(sums, 2).flatten(1)


def sums_of_taps(weight: Tensor) -> Tensor:
    """The sum over the last dimension, in a quarter of the time of ``weight.sum(-1)``."""
    first, *others = weight.unbind(-1)
    sums = first.to(torch.int32) if others else first
    for tap in others:
        sums += tap
    return sums
