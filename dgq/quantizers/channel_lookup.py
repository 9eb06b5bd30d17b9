"""Scale and zero point of each channel of an activation, from per-channel factors."""

from torch import Tensor

from dgq.quantizers.group_lookup import row_of_step
from dgq.unet.calls import SamplerCalls


def channel_parameters(
    x: Tensor, scale: Tensor, zero_point: Tensor, factor: Tensor, calls: SamplerCalls
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of every channel at the step of the call, broadcastable to ``x``.

    Args:
        x: ``[batch, channels, height, width]``, ``[batch, tokens, channels]`` or 2-D.
        scale: ``[steps]`` or ``[1]``.
        zero_point: ``[steps, channels]``, or one for all channels.
        factor: factor of the scale, ``[channels]``, or one for all channels.
        calls: calls of the UNet, with the current one.
    """
    step = row_of_step(scale, calls)
    scale, zero_point = scale[step][:, None] * factor, zero_point[step]
    return by_channel(scale, x), by_channel(zero_point, x)


def by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """``[batch, channels]`` broadcastable to ``x``, whose channels are its second or last axis."""
    shape = [parameter.shape[0], *[1] * (x.ndim - 1)]
    shape[1 if x.ndim == 4 else -1] = parameter.shape[1]
    return parameter.view(shape)
