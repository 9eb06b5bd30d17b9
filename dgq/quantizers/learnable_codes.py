"""Learning which codes of an already rounded weight move."""

import torch
from torch import Tensor, nn

from dgq.math.affine import clamp_within, round_ste
from dgq.quantizers.learnable import Learnable

NEARNESS = 0.8
"""Initial offsets as a fraction of the rounding error: at most 0.4, so none moves by chance."""


class LearnableCodes(Learnable):
    """An offset for each code, in units of codes; a code moves once its offset exceeds a half.

    Straight-through gradients (LSQ, arXiv 1902.08153).
    """

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.empty(0))

    def start_(self, position: Tensor, codes: Tensor) -> None:
        """Start from the codes as they are.

        Args:
            position: positions of the full-precision weights among the codes, ``[out, n]``.
            codes: ``[out, n]``; codes that learning has rounded away from nearest move back easily.
        """
        self.offset.data = NEARNESS * (position - codes).clamp(-0.5, 0.5)

    def moved(self, codes: Tensor, n_bits: int) -> Tensor:
        """Codes ``[out, n]`` as learned so far."""
        return clamp_within(codes + round_ste(self.offset), 0, 2**n_bits - 1)
