"""Learning a gain and a shift for the output of one layer whose codes are fixed."""

import torch
from torch import Tensor, nn

from dgq.math.reconstruction import feature_dim
from dgq.quantizers.learnable import Learnable


class LearnableOutput(Learnable):
    """``gain * output + shift`` for each output channel, to be merged into scales and biases.

    A gain of the output equals one of the weight's scale, and needs no gradient of the weight.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.empty(0))
        self.shift = nn.Parameter(torch.empty(0))

    def start_(self, scale: Tensor, has_bias: bool) -> None:
        """Start from the output as it is.

        Args:
            scale: scale of the weight, ``[out]``.
            has_bias: whether the layer has a bias that can hold the shift.
        """
        self.log_gain.data = torch.zeros_like(scale)
        self.shift.data = torch.zeros_like(scale if has_bias else scale[:0])

    def forward(self, output: Tensor) -> Tensor:
        """``[batch, out, height, width]`` or ``[..., out]``, corrected as learned so far."""
        shape = [1] * output.ndim
        shape[feature_dim(output)] = -1
        corrected = output * self.log_gain.exp().view(shape).to(output.dtype)
        if self.shift.numel() == 0:
            return corrected
        return corrected + self.shift.view(shape).to(output.dtype)
