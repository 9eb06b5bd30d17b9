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

from dgq.ops.native import sums_fit
from dgq.unet.geometry import Geometry


def group_factors(exponent: Tensor | None, largest: int) -> Tensor | int:
    """The factor of each weight, from the exponents ``[out, n]`` of its groups of inputs."""
    return 1 if exponent is None else 1 << (largest - exponent.to(torch.int32))


def largest_exponent(exponent: Tensor | None) -> int:
    """The largest of a weight's exponents, 0 without any."""
    return 0 if exponent is None else int(exponent.max())


def fits(weight: Tensor, inputs: int) -> bool:
    """Whether multiplied weights fit into s8, and their products with u8 into 32 bits."""
    in_s8 = int(weight.min()) >= -128 and int(weight.max()) <= 127
    return in_s8 and sums_fit(inputs)


def zero_point_sums(weight: Tensor, zero_point: Tensor, geometry: Geometry) -> Tensor:
    """``sum_c z'[t, c] v'[o, c]``, float64 ``[steps, out]``.

    Args:
        weight: int8 ``[out, n]``.
        zero_point: ``[steps, channels]``, times the factors of the codes.
        geometry: of the layer.
    """
    groups = geometry.groups
    by_channel = weight.view(weight.shape[0], geometry.in_channels // groups, -1)
    if by_channel.shape[2] == 1:  # sums of one number are as slow as those of many
        sums = by_channel.squeeze(2)
    else:
        sums = by_channel.sum(2, dtype=torch.int32)
    sums = sums.double().view(groups, -1, by_channel.shape[1])
    zeros = zero_point.double().view(zero_point.shape[0], groups, -1)
    return torch.einsum("goc,sgc->sgo", sums, zeros).flatten(1)
