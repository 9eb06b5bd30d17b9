"""What is learned about the ranges of one activation: gain and shift for each step and group."""

import torch
from torch import Tensor, nn

from dgq.affine import round_ste


class LearnableRange(nn.Module):
    """Learned corrections of a scale and a zero point ``[steps, groups]`` (LSQ+, 2004.09576).

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

    def start_(self, scale: Tensor) -> None:
        """Start from the observed ranges, whose scale is ``[steps, groups]``."""
        self.log_gain.data = torch.zeros_like(scale)
        self.shift.data = torch.zeros_like(scale)

    def stop_(self) -> None:
        """Free the memory."""
        for parameter in self.parameters():
            parameter.data = parameter.data.new_empty(0)
            parameter.grad = None

    def corrected(self, scale: Tensor, zero_point: Tensor, n_bits: int) -> tuple[Tensor, Tensor]:
        """Corrected scale and zero point; a shift of 1 moves the range by its whole width."""
        moved = zero_point + 2**n_bits * self.shift
        return scale * self.log_gain.exp(), round_ste(moved)
