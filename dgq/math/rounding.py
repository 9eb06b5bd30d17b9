"""Learned rounding of weights as pure functions (AdaRound, arXiv 2004.10568)."""

import torch
from torch import Tensor

STRETCH_LOW = -0.1
STRETCH_HIGH = 1.1
START_TEMPERATURE = 20.0
END_TEMPERATURE = 2.0
UNDECIDED = 1e-6
"""Smallest distance of a logit from 0, so that it stays on its side."""


def soft_rounding(v: Tensor) -> Tensor:
    """Rectified sigmoid ``clamp(1.2 sigmoid(v) - 0.1, 0, 1)``: how far a weight is rounded up."""
    stretched = torch.sigmoid(v) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
    return stretched.clamp(0, 1)


def hard_rounding(v: Tensor) -> Tensor:
    """The decision behind ``soft_rounding``: 1 where ``v >= 0``, else 0."""
    return (v >= 0).to(v.dtype)


def rounding_logits(ratio: Tensor) -> Tensor:
    """Logits whose soft rounding is the ratio itself and whose hard rounding is to nearest.

    ``soft_rounding`` gives the fraction, ``ratio - floor(ratio)``; ``hard_rounding`` rounds half to
    even, as fake quantization does.

    Args:
        ratio: weights in units of their scale.
    """
    down = ratio.floor()
    logits = torch.logit((ratio - down - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW))
    goes_up = ratio.round() > down
    return torch.where(goes_up, logits.clamp(min=UNDECIDED), logits.clamp(max=-UNDECIDED))


def temperature_at(progress: float, warmup: float) -> float | None:
    """Exponent of the penalty at a point of the learning; ``None`` while there is no penalty.

    Args:
        progress: the iteration, counted from 1, as a fraction of all of them.
        warmup: the fraction at which the penalty begins, with the highest temperature.
    """
    if progress < warmup:
        return None
    remaining = (1 - progress) / (1 - warmup)
    return END_TEMPERATURE + (START_TEMPERATURE - END_TEMPERATURE) * remaining
