"""Quantizer of differences between sampler steps, while a UNet is calibrated."""

from torch import Tensor

from dgq.quantizers.live_quantizer import LiveQuantizer


class ResidualQuantizer(LiveQuantizer):
    """Live quantization in two rounds, as at the first call of an image.

    Calibration meets samples of all steps in any order, so that every call is a first one. The
    second round quantizes what the first one left, and the sum of both is read.
    """

    def quantize(self, x: Tensor) -> Tensor:
        """Both rounds together."""
        first = super().quantize(x)
        return first + super().quantize(x - first)
