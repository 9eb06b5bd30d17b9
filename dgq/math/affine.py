"""Affine (uniform, asymmetric) quantization as pure functions."""

from typing import Any

import torch
from torch import Tensor

RELATIVE_PRECISION = 2.0**-20
"""Smallest scale relative to the range's magnitude: below it float32 cannot hold the zero point."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, _x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value``, which was made of ``x``, with the gradient of the identity (Bengio 2013)."""
    result: Tensor = _StraightThrough.apply(x, value.detach())  # type: ignore[no-untyped-call]
    return result


def round_ste(x: Tensor) -> Tensor:
    """Round half to even, with the gradient of the identity."""
    return straight_through(x, x.detach().round())


class _ClampWithin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lowest: float, highest: float) -> Tensor:
        value = x.clamp(lowest, highest)
        ctx.save_for_backward(value == x)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (within,) = ctx.saved_tensors
        return gradients[0] * within, None, None


def clamp_within(x: Tensor, lowest: float, highest: float) -> Tensor:
    """``x.clamp(lowest, highest)``, with the gradient of the identity from end to end, inclusive.

    Codes often lie at an end. There torch's own gradient is that of the identity up to version 2.13
    and zero in 2.15. It also takes twice the time.
    """
    result: Tensor = _ClampWithin.apply(x, lowest, highest)  # type: ignore[no-untyped-call]
    return result


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, n_bits: int) -> Tensor:
    """Quantize and dequantize: ``scale * (clamp(round(x / scale) + zero_point) - zero_point)``.

    Args:
        x: values of any shape.
        scale: positive, broadcastable to ``x``.
        zero_point: whole numbers, broadcastable to ``x``; need not lie among the codes.
        n_bits: codes run from 0 to ``2^n_bits - 1``.

    Returns:
        Tensor of the shape of ``x``; differentiable in ``x`` and ``scale``.
    """
    largest = 2**n_bits - 1
    if torch.is_grad_enabled():
        codes = clamp_within(round_ste(x / scale) + zero_point, 0, largest)
        return (codes - zero_point) * scale
    # The same in place, clamped where the codes are still minus their zero point. A clamp between
    # tensors would do both ends at once, at half the speed, and dynamo refuses ``out=`` for
    # channels-last images.
    codes = (x / scale).round_()
    lowest = -zero_point.to(codes.dtype)
    return codes.clamp_min_(lowest).clamp_max_(lowest + largest).mul_(scale)


def affine_parameters(low: Tensor, high: Tensor, n_bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point whose codes span ``[low, high]``.

    Zero is not forced into the range, so the zero point may be any whole number. A range that is
    (nearly) a single value is widened to include zero, which represents that value exactly.

    Args:
        low: lower ends, any shape.
        high: upper ends, the same shape.
        n_bits: codes run from 0 to ``2^n_bits - 1``.

    Returns:
        ``scale > 0`` and ``zero_point``, both of the shape of ``low``.
    """
    magnitude = torch.maximum(low.abs(), high.abs())
    degenerate = (high - low) <= magnitude * RELATIVE_PRECISION * (2**n_bits - 1)
    low = torch.where(degenerate, low.clamp(max=0), low)
    high = torch.where(degenerate, high.clamp(min=0), high)
    width = high - low
    scale = torch.where(width > 0, width / (2**n_bits - 1), torch.ones_like(width))
    scale = scale.clamp(min=torch.finfo(scale.dtype).tiny)
    return scale, torch.round(-low / scale)


def symmetric_parameters(low: Tensor, high: Tensor, n_bits: int) -> tuple[Tensor, Tensor]:
    """The least scale whose codes cover ``[low, high]`` around the zero point ``2^(n_bits - 1)``.

    Args:
        low: lower ends, at most 0, any shape.
        high: upper ends, at least 0, the same shape.
        n_bits: codes run from 0 to ``2^n_bits - 1``.

    Returns:
        ``scale > 0`` and ``zero_point``, both of the shape of ``low``.
    """
    half = 2 ** (n_bits - 1)
    scale = torch.maximum(-low / half, high / (half - 1))
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale.clamp(min=torch.finfo(scale.dtype).tiny), torch.full_like(scale, half)
