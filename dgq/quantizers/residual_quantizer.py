"""Quantizer of differences between sampler steps, while a UNet is calibrated."""

from torch import Tensor

from dgq.quantizers.live_quantizer import LiveQuantizer


class ResidualQuantizer(LiveQuantizer):
    """Live quantization in two rounds, as in the first call of an image.

    Calibration sees samples of all steps in any order, so every call counts as a first one. The
    second round quantizes the error of the first, and layers read the sum of both.
    """

    def quantize(self, x: Tensor) -> Tensor:
        """The sum of both rounds."""
        first = super().quantize(x)
        return first + super().quantize(x - first)
