"""Live ranges: scale and zero points of an activation from the sample being quantized.

Nothing is stored per sampler step, so every sampler, number of steps and resolution works as well
as the calibrated one, and each sample gets the scale that it needs, not one that all samples share.
Only the multiples of the channels stay fixed, since they are part of the weights.
"""

import torch
from torch import Tensor

from dgq.math.multiples import finest_scale
from dgq.math.zero_points import centred_zero_point, limited_zero_point, required_range
from dgq.quantizers.observer import Ranges, as_channels_last


def sample_ranges(x: Tensor) -> Ranges:
    """Least and largest value of each channel of each sample, ``[batch, channels]``, float32.

    Args:
        x: ``[batch, channels, height, width]``, ``[batch, tokens, channels]``, or
            ``[batch, channels]``, which counts as one channel: ``[batch, 1]``.
    """
    if x.ndim == 2:
        return Ranges(x.amin(1, True).float(), x.amax(1, True).float())
    x = as_channels_last(x)
    return Ranges(x.amin(1).float(), x.amax(1).float())


def live_parameters(
    ranges: Ranges, multiple: Tensor, n_bits: int, gain: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """The finest scale and the zero points whose codes cover the ranges of each sample.

    Zero is always covered: its codes are the zero points, so their contribution to a product is the
    product of a row of zeros.

    Args:
        ranges: ``[batch, channels]``.
        multiple: ``[channels]``, whole multiples of the finest scale.
        n_bits: bits of the codes.
        gain: ``[1]``, learned: below 1 the ends of the ranges are clipped.
        shift: ``[1, channels]`` or ``[1, 1]``, learned: codes added to the zero points.

    Returns:
        Scale ``[batch]`` and zero point ``[batch, channels]``, whole numbers of 0 to
        ``2^n_bits - 1``.
    """
    low, high = required_range(*ranges, padded=True)
    scale = finest_scale(high - low, multiple, n_bits) * gain
    centre = centred_zero_point(*ranges, scale[:, None] * multiple, n_bits)
    return scale, limited_zero_point(centre + shift, n_bits, padded=True)


def own_step(x: Tensor) -> Tensor:
    """The row of scales and zero points of each sample, if each has its own: ``[batch]``."""
    return torch.arange(x.shape[0], device=x.device)
