"""Learned rounding of weights, with gradients by hand: fewer passes than autograd's."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dgq.math.cached_rows import cached_rows
from dgq.math.rounding import STRETCH_HIGH, STRETCH_LOW, soft_rounding

AT_AN_END = 1e-6
"""How far beyond 0 or 1 a rounding still counts as within: whole weights start at an end."""


@torch.no_grad()
def soft_weight(
    logits: Tensor,
    floor: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    factor: Tensor | None,
    largest: int,
) -> Tensor:
    """``(clamp(floor + h, 0, largest) - zero_point) * scale * factor``, with the soft rounding h.

    Args:
        logits: of the rounding, ``[out, n]``.
        floor: weights in units of their scales, rounded down, plus the zero point; ``[out, n]``.
        zero_point: ``[out]``.
        scale: ``[out]``.
        factor: of each weight's scale, ``[1 or out, n]``; None where all are 1.
        largest: the largest code.
    """
    weight = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for rows in _blocks(logits):
        codes = (floor[rows] + soft_rounding(logits[rows])).clamp_(0, largest)
        block = torch.sub(codes, zero_point[rows, None], out=weight[rows]).mul_(scale[rows, None])
        if factor is not None:
            block.mul_(_of(rows, factor))
    return weight


@torch.no_grad()
def soft_weight_gradients(
    gradient: Tensor,
    logits: Tensor,
    floor: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    factor: Tensor | None,
    largest: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of the logits, ``[out, n]``, and of the scale, ``[out]``, of a soft weight.

    Clamps have the gradient of the identity from end to end, inclusive.

    Args:
        gradient: of the weight, ``[out, n]``.
        logits: as of ``soft_weight``, and so the others.
    """
    of_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    of_scale = torch.empty_like(scale)
    for rows in _blocks(logits):
        h, slope = _rounding_and_slope(logits[rows])
        raised = floor[rows] + h
        codes = raised.clamp(0, largest)
        scaled = gradient[rows] if factor is None else gradient[rows] * _of(rows, factor)
        slope.mul_(codes == raised).mul_(scale[rows, None])
        torch.mul(slope, scaled, out=of_logits[rows])
        of_scale[rows] = codes.sub_(zero_point[rows, None]).mul_(scaled).sum(1)
    return of_logits, of_scale


@torch.no_grad()
def rounding_penalty(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``sum(1 - |2h - 1|^temperature)``, zero where every h is 0 or 1 (AdaRound, eq. 24).

    Args:
        logits: of the soft rounding h, ``[out, n]``.
        temperature: at least 1.

    Returns:
        The penalty, ``[]``, and its gradient, ``[out, n]``.
    """
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    kept = logits.new_zeros(())
    for rows in _blocks(logits):
        h, slope = _rounding_and_slope(logits[rows])
        side = h.mul_(2).sub_(1)
        distance = side.abs()
        power = distance.pow(temperature - 1)
        kept += distance.mul_(power).sum()
        power.mul_(side.sign_()).mul_(slope)
        torch.mul(power, -2 * temperature, out=gradient[rows])
    return logits.numel() - kept, gradient


def _rounding_and_slope(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The soft rounding of logits ``[out, n]``, and its derivative."""
    s = torch.sigmoid(logits)
    stretched = s * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
    h = stretched.clamp(0, 1)
    within = stretched.sub_(h).abs_() <= AT_AN_END
    slope = (s - s * s).mul_(STRETCH_HIGH - STRETCH_LOW).mul_(within)
    return h, slope


def _blocks(x: Tensor) -> Iterator[slice]:
    """Rows of ``[out, n]`` that stay in the cache together."""
    n_rows = cached_rows(len(x), x.shape[1], x.device)
    return (slice(start, start + n_rows) for start in range(0, len(x), n_rows))


def _of(rows: slice, factor: Tensor) -> Tensor:
    """Factors ``[1 or out, n]`` of some rows."""
    return factor[rows] if len(factor) > 1 else factor
