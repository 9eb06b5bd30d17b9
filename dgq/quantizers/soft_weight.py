"""The weight while its rounding is learned, and the penalty, as operators with gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dgq import ops


class _SoftWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        *tensors, ctx.largest = operands
        ctx.save_for_backward(*tensors)
        weight: Tensor = ops.soft_weight(*operands)
        return weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        operands = (*ctx.saved_tensors, ctx.largest)
        of_logits, of_scale = ops.soft_weight_gradients(gradients[0], *operands)
        return of_logits, None, None, of_scale, None, None


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float) -> Tensor:
        penalty: Tensor
        penalty, gradient = ops.rounding_penalty(logits, temperature)
        ctx.save_for_backward(gradient)
        return penalty

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None


def soft_weight(
    logits: Tensor,
    floor: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    factor: Tensor | None,
    largest: int,
) -> Tensor:
    """``reference.soft_weight``, differentiable in the logits ``[out, n]`` and scale ``[out]``."""
    operands = (logits, floor, zero_point, scale, factor, largest)
    weight: Tensor = _SoftWeight.apply(*operands)  # type: ignore[no-untyped-call]
    return weight


def rounding_penalty(logits: Tensor, temperature: float) -> Tensor:
    """``reference.rounding_penalty`` of logits ``[out, n]``, differentiable."""
    penalty: Tensor = _Penalty.apply(logits, temperature)  # type: ignore[no-untyped-call]
    return penalty
