"""Quantizer of an activation whose scale and zero points come from each sample."""

import torch
from torch import Tensor

from dgq.math.multiples import channel_multiples
from dgq.math.zero_points import required_range
from dgq.quantizers.channel_lookup import by_channel
from dgq.quantizers.live_ranges import live_parameters, sample_ranges
from dgq.quantizers.observer import Ranges
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext


class LiveQuantizer(RangeQuantizer):
    """Affine quantization with the scale ``scale[sample] * multiple[channel]``.

    Calibration finds ``multiple [channels]``; two further tensors may be learned: ``scale [1]``,
    relative to the sample's own, and ``zero_point [1, channels]``, codes added to the sample's own.
    2-D inputs count as one channel.

    Args:
        settings: bits and the largest exponent.
        context: mode of the UNet.
    """

    multiple: Tensor

    def __init__(self, settings: ActivationSettings, context: QuantizationContext) -> None:
        super().__init__(settings, context)
        self.register_buffer("multiple", torch.empty(0, dtype=torch.int16))

    def fit_ranges_(self, channels: Ranges, pixels: Ranges | None) -> None:
        """Choose the multiples; nothing is learned yet."""
        low, high = required_range(*channels, padded=True)
        settings = self.settings
        self.multiple = channel_multiples(high - low, settings.n_bits, settings.max_exponent)
        self.scale = low.new_ones(1)
        self.zero_point = low.new_zeros(1, low.shape[1], dtype=torch.int32)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel of each sample, broadcastable to ``x``."""
        gain, shift = self.current_ranges()
        ranges = sample_ranges(x.detach())
        scale, zero_point = live_parameters(
            ranges, self.multiple, self.settings.n_bits, gain, shift
        )
        return by_channel(scale[:, None] * self.multiple, x), by_channel(zero_point, x)
