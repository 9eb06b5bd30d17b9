"""Attention that tallies its scores, and otherwise computes what quantized attention does."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.unet.attention import QuantizedAttention

MAX_SCORES = 2**24
"""Most scores held at once, 64 MiB; at 64x64 latents those of 512 queries of a sample, 8 heads."""

SMALL_SCORE = 2.0**-8


class ScoreTally:
    """Running sums over the scores of one attention, on the device of the scores.

    Args:
        is_cross: whether this is cross-attention, whose first key is the start token.
        n_steps: sampler steps.
        n_halves: 2 with classifier-free guidance (empty prompt, prompt), else 1.
        device: of the scores.
    """

    def __init__(self, is_cross: bool, n_steps: int, n_halves: int, device: torch.device) -> None:
        self.is_cross = is_cross
        self.n_halves = n_halves
        self.n_keys = 0
        self.start_mass = torch.zeros(n_halves, n_steps, dtype=torch.float64, device=device)
        self.n_start = torch.zeros_like(self.start_mass)
        self.n_small = torch.zeros((), dtype=torch.long, device=device)
        self.n_others = 0

    def update(self, scores: Tensor, step: Tensor, half: Tensor) -> None:
        """Add some scores to the tally.

        Args:
            scores: ``[rows, heads, queries, keys]``, softmaxed.
            step: ``[rows]``, sampler step of each row.
            half: ``[rows]``, 0 or 1.
        """
        self.n_keys = scores.shape[-1]
        if self.is_cross:
            start, scores = scores[..., 0], scores[..., 1:]
            mass, n = start.double().sum((1, 2)), torch.full_like(step, start[0].numel()).double()
            self.start_mass.index_put_((half, step), mass, accumulate=True)
            self.n_start.index_put_((half, step), n, accumulate=True)
        self.n_small += (scores < SMALL_SCORE).sum()
        self.n_others += scores.numel()

    def start_token(self) -> Tensor:
        """Mean mass on the start token relative to uniform attention, by half, ``[halves]``.

        Every sampler step has the same weight.

        Raises:
            DGQError: if scores are not finite.
        """
        mean = (self.start_mass / self.n_start).mean(1) * self.n_keys
        if not mean.isfinite().all():
            raise DGQError("attention scores are not finite: the UNet's weights are damaged")
        return mean.cpu()


class MeasuringAttention(QuantizedAttention):
    """Quantized attention that also computes its scores explicitly and tallies them."""

    tally: ScoreTally

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        rows = torch.arange(query.shape[0], device=query.device)
        half = rows * self.tally.n_halves // query.shape[0]
        step = self.calls.step.to(query.device).expand(query.shape[0])
        q, k = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key))
        prepared = None
        if mask is not None:
            prepared = self.prepare_attention_mask(mask, key.shape[1], query.shape[0])
            prepared = prepared.unflatten(0, (-1, self.heads))
        for part, scores in score_parts(q, k, prepared, self.scale):
            self.tally.update(scores, step[part], half[part])
        return super()._mix(query, key, value, mask)


def measure_(attention: QuantizedAttention, n_halves: int) -> ScoreTally:
    """Make a quantized attention tally its scores; ``n_halves`` as in ``ScoreTally``."""
    attention.__class__ = MeasuringAttention
    assert isinstance(attention, MeasuringAttention)
    attention.tally = ScoreTally(
        *(attention.is_cross_attention, attention.calls.n_steps, n_halves),
        attention.to_q.weight.device,
    )
    return attention.tally


def score_parts(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float
) -> Iterator[tuple[slice, Tensor]]:
    """Scores of ``[rows, heads, tokens, head_dim]``, at most about MAX_SCORES at a time.

    Yields:
        Rows of the batch, and scores ``[rows, heads, queries, keys]`` of some of their queries.
    """
    n_rows, n_heads, n_queries, _ = query.shape
    per_query = n_heads * key.shape[2]
    rows_at_once = max(1, MAX_SCORES // (per_query * n_queries))
    queries_at_once = max(1, MAX_SCORES // (per_query * rows_at_once))
    for first in range(0, n_rows, rows_at_once):
        part = slice(first, first + rows_at_once)
        for some in query[part].split(queries_at_once, dim=2):
            logits = some @ key[part].transpose(-1, -2) * scale
            # The mask of a text is [rows, heads, 1, keys], the same for every query.
            yield part, (logits if mask is None else logits + mask[part]).softmax(-1)
