"""What is learned about the ranges of one activation: gains of scales, shifts of zero points."""

import torch
from torch import Tensor, nn

from dgq.affine import round_ste


class LearnableRange(nn.Module):
    """Learned corrections of scales and zero points (LSQ+, 2004.09576).

    As with learned rounding, the parameters are made once and hold memory only while their target
    is learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.empty(0))
        self.shift = nn.Parameter(torch.empty(0))

    @property
    def active(self) -> bool:
        """Whether there is something to learn now."""
        return self.log_gain.numel() > 0

    def start_(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from the observed ranges: a gain for each scale, a shift for each zero point."""
        self.log_gain.data = torch.zeros_like(scale)
        self.shift.data = torch.zeros_like(zero_point, dtype=scale.dtype)

    def stop_(self) -> None:
        """Free the memory."""
        for parameter in self.parameters():
            parameter.data = parameter.data.new_empty(0)
            parameter.grad = None

    def corrected(self, scale: Tensor, zero_point: Tensor, n_bits: int) -> tuple[Tensor, Tensor]:
        """Corrected scale and zero point; a shift of 1 moves the range by its whole width."""
        moved = zero_point + 2**n_bits * self.shift
        return scale * self.log_gain.exp(), round_ste(moved)
