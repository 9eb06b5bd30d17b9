"""Quantizer of an activation whose channels have whole multiples of one scale."""

import torch
from torch import Tensor

from dgq.math.multiples import channel_multiples, finest_scale
from dgq.math.zero_points import centred_zero_point, required_range
from dgq.quantizers.channel_lookup import channel_parameters
from dgq.quantizers.channel_quantizer import ChannelQuantizer
from dgq.quantizers.observer import Ranges
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext


class MultipleQuantizer(ChannelQuantizer):
    """Affine quantization with scale ``scale[step] * multiple[channel]``.

    ``scale`` is ``[steps]``, ``zero_point`` ``[steps, channels]`` and ``multiple`` ``[channels]``.
    The counterpart of exponents, with a finer choice if the codes leave bits free. 2-D inputs count
    as one channel.

    Args:
        settings: bits, largest exponent, and whether each step has its own ranges.
        context: mode and step of the UNet.
        of_text: tokens are words.
        padded: a convolution pads the input with zeros, which then need a code.
    """

    multiple: Tensor

    def __init__(
        self,
        settings: ActivationSettings,
        context: QuantizationContext,
        of_text: bool = False,
        padded: bool = False,
    ) -> None:
        super().__init__(settings, context, of_text, padded)
        self.register_buffer("multiple", torch.empty(0, dtype=torch.int16))

    def fit_ranges_(self, channels: Ranges, pixels: Ranges | None) -> None:
        """Choose the multiples, the finest scale of each step, and each channel's zero point."""
        n_bits = self.settings.n_bits
        low, high = required_range(*channels, self.padded)
        self.multiple = channel_multiples(high - low, n_bits, self.settings.max_exponent)
        self.scale = finest_scale(high - low, self.multiple, n_bits)
        # The observed range is centred, not the widened one.
        zero_point = centred_zero_point(*channels, self.scale[:, None] * self.multiple, n_bits)
        self.zero_point = self.limited(zero_point).to(torch.int32)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel, broadcastable to ``x``."""
        return channel_parameters(x, *self.current_ranges(), self.multiple, self.context)
