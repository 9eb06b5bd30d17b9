"""Learning the ranges of one activation: gains of scales, shifts of zero points."""

import torch
from torch import Tensor, nn

from dgq.math.affine import round_ste
from dgq.quantizers.learnable import Learnable


class LearnableRange(Learnable):
    """Learned corrections of scales and zero points (LSQ+, arXiv 2004.09576)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.empty(0))
        self.shift = nn.Parameter(torch.empty(0))

    def start_(self, scale: Tensor, zero_point: Tensor) -> None:
        """Start from the observed ranges: a gain for each scale, a shift for each zero point."""
        self.log_gain.data = torch.zeros_like(scale)
        self.shift.data = torch.zeros_like(zero_point, dtype=scale.dtype)

    def corrected(self, scale: Tensor, zero_point: Tensor, n_bits: int) -> tuple[Tensor, Tensor]:
        """Corrected scale and zero point; a shift of 1 moves the range by its whole width."""
        moved = zero_point + 2**n_bits * self.shift
        return scale * self.log_gain.exp(), round_ste(moved)
