"""Affine quantization of attention scores that runs: a fixed range for each step."""

from functools import partial

from torch import Tensor

from dgq.calls import SamplerCalls
from dgq.inference.input_quantizers import ChannelInput, InputQuantizer
from dgq.start_token import but_start


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
        """``[batch, heads, queries, keys]``, softmaxed."""
        quantize = partial(InputQuantizer.forward, self)
        return but_start(quantize, scores, -1) if self.keep_start else quantize(scores)
