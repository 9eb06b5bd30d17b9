"""What is learned about the codes of one weight that has been rounded before: which ones move."""

import torch
from torch import Tensor, nn

from dgq.math.affine import round_ste
from dgq.quantizers.learnable import Learnable

NEARNESS = 0.8
"""Offsets start at this part of what was rounded off: at most 0.4, so that none moves by chance."""


class LearnableCodes(Learnable):
    """An offset for each code, in codes, that moves it when it has grown beyond a half.

    Straight-through gradients (LSQ, arXiv 1902.08153).
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.empty(0))

    def start_(self, position: Tensor, codes: Tensor) -> None:
        """Start from codes as they are.

        Args:
            position: of the weights in full precision among the codes, ``[out, n]``.
            codes: ``[out, n]``; where learning has rounded to a farther one, the way back is near.
        """
        self.offset.data = NEARNESS * (position - codes).clamp(-0.5, 0.5)

    def moved(self, codes: Tensor, n_bits: int) -> Tensor:
        """Codes ``[out, n]`` as learned so far."""
        return (codes + round_ste(self.offset)).clamp(0, 2**n_bits - 1)
