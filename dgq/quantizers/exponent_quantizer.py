"""Quantizer of an activation whose channels have scales that differ by powers of two."""

import torch
from torch import Tensor

from dgq.math.exponent_search import base_scale, channel_exponents
from dgq.math.exponents import fraction
from dgq.math.zero_points import centred_zero_point, required_range
from dgq.quantizers.channel_lookup import channel_parameters
from dgq.quantizers.channel_quantizer import ChannelQuantizer
from dgq.quantizers.observer import Ranges
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext


class ExponentQuantizer(ChannelQuantizer):
    """Affine quantization with scale ``scale[step] * 2^-exponent[channel]``.

    ``scale`` is ``[steps]``, ``zero_point`` ``[steps, channels]`` and ``exponent`` ``[channels]``:
    one pattern for all steps, so that the weights can be shifted once and a layer is one integer
    product (docs/explanation/method.md). 2-D inputs count as one channel.

    Args:
        settings: bits, largest exponent, and whether each step has its own ranges.
        context: mode and step of the UNet.
        of_text: tokens are words.
        padded: a convolution pads the input with zeros, which then need a code: zero points lie
            among the codes. Otherwise from ``-qmax`` to ``2 qmax``.
    """

    exponent: Tensor

    def __init__(
        self,
        settings: ActivationSettings,
        context: QuantizationContext,
        of_text: bool = False,
        padded: bool = False,
    ) -> None:
        super().__init__(settings, context, of_text, padded)
        self.register_buffer("exponent", torch.empty(0, dtype=torch.uint8))

    def fit_ranges_(self, channels: Ranges, pixels: Ranges | None) -> None:
        """Choose the exponents, the base scale of each step, and each channel's zero point."""
        low, high = required_range(*channels, self.padded)
        self.exponent = channel_exponents(high - low, self.settings.max_exponent)
        self.scale = base_scale(high - low, self.exponent, self.settings.n_bits)
        scale = self.scale[:, None] * fraction(self.exponent)
        # The observed range is centred, not the widened one.
        zero_point = centred_zero_point(*channels, scale, self.settings.n_bits)
        self.zero_point = self.limited(zero_point).to(torch.int32)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel, broadcastable to ``x``."""
        return channel_parameters(x, *self.current_ranges(), fraction(self.exponent), self.context)
