"""Logarithmic quantization of attention scores (paper, section 4.2)."""

import torch
from torch import Tensor

from dgq.math.affine import straight_through


def log_quantize(scores: Tensor, maximum: Tensor, n_bits: int) -> Tensor:
    """``d * 2^-clamp(round(-log2(P / d)), 0, 2^n_bits - 1)``: powers of two under the maximum.

    Args:
        scores: ``P``, in ``[0, 1]``.
        maximum: ``d``, broadcastable to ``scores``.
        n_bits: bits of the exponent.

    Returns:
        Tensor like ``scores``. Zeros stay zero for every maximum, since a masked token must not
        come back, and NaN stays NaN. The gradient is that of ``scores``, even at zeros, where the
        logarithm has none.
    """
    return straight_through(scores, _powers_of_two(scores, maximum, n_bits))


@torch.no_grad()
def _powers_of_two(scores: Tensor, maximum: Tensor, n_bits: int) -> Tensor:
    # In place: there are more scores than anything else, and fresh memory is slow.
    powers = (scores / maximum).log2_().neg_().round_().clamp_(0, 2**n_bits - 1).neg_().exp2_()
    return powers.mul_(maximum).masked_fill_(scores == 0, 0.0)


def live_maximum(scores: Tensor) -> Tensor:
    """The largest score of each sample: ``[batch, heads, queries, keys] -> [batch, 1, 1, 1]``.

    Never over the batch, or one prompt would affect the image of another.
    """
    return scores.amax(dim=(1, 2, 3), keepdim=True)


def log_quantize_live(scores: Tensor, n_bits: int) -> Tensor:
    """Log quantization of ``[batch, heads, queries, keys]`` under each sample's own maximum."""
    return log_quantize(scores, live_maximum(scores), n_bits)


def log_quantize_but_start(scores: Tensor, n_bits: int) -> Tensor:
    """As above for all keys but the first, the ``<start>`` token, which passes unchanged."""
    start, rest = scores[..., :1], scores[..., 1:]
    if rest.shape[-1] == 0:
        return scores
    return torch.cat([start, log_quantize_live(rest, n_bits)], dim=-1)
