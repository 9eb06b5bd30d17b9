"""Quantizers of attention scores for inference: fixed ranges or maxima for each step."""

from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.input_quantizers import InputQuantizer
from dgq.math.log_scores import log_quantize
from dgq.unet.calls import SamplerCalls
from dgq.unet.start_token import but_start


class AffineScores(ChannelInput):
    """One range for the whole tensor of scores.

    Args:
        n_bits: of the codes.
        calls: of the UNet.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
    """

    active = True

    def __init__(self, n_bits: int, calls: SamplerCalls, keep_start: bool) -> None:
        super().__init__(n_bits, calls, channels=1)
        self.keep_start = keep_start

    def forward(self, scores: Tensor) -> Tensor:
        """Quantize softmaxed scores ``[batch, heads, queries, keys]``."""
        return but_start(self.quantize, scores, -1) if self.keep_start else self.quantize(scores)

    def quantize(self, scores: Tensor) -> Tensor:
        """Quantize and dequantize some of the scores."""
        return InputQuantizer.forward(self, scores)


class CalibratedLogScores(AffineScores):
    """Powers of two under the maximum of each step, which is stored as a scale.

    Args:
        n_bits: of the exponents.
        calls: of the UNet.
        keep_start: pass the first key, the ``<start>`` token, in full precision.
    """

    def quantize(self, scores: Tensor) -> Tensor:
        """Quantize and dequantize some of the scores."""
        maximum, _ = self.parameters_of(scores)
        return log_quantize(scores.float(), maximum, self.n_bits).to(scores.dtype)
