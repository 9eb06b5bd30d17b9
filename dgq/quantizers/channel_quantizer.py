"""Base of quantizers with a scale and a zero point for each channel."""

from torch import Tensor

from dgq.math.zero_points import limited_zero_point
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext


class ChannelQuantizer(RangeQuantizer):
    """Affine quantization with zero points near the codes, or among them.

    Args:
        settings: bits, largest exponent, and whether each step has its own ranges.
        context: mode and step of the UNet.
        of_text: tokens are words.
        padded: a convolution pads the input with zeros, which then need a code: zero points lie
            among the codes. Otherwise from ``-qmax`` to ``2 qmax``.
    """

    def __init__(
        self,
        settings: ActivationSettings,
        context: QuantizationContext,
        of_text: bool = False,
        padded: bool = False,
    ) -> None:
        super().__init__(settings, context, of_text=of_text)
        self.padded = padded

    def current_ranges(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point in the buffers' shapes, fixed or as learned so far."""
        scale, zero_point = super().current_ranges()
        return scale, self.limited(zero_point)

    def limited(self, zero_point: Tensor) -> Tensor:
        """Zero points clamped to their valid range."""
        return limited_zero_point(zero_point, self.settings.n_bits, self.padded)
