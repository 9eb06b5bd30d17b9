"""Meta kernels: the shape and dtype of each operator's output, without computing it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dgq.ops import reference
from dgq.ops.library import LIBRARY


def register() -> None:
    """Register this file's functions with ``torch.ops.dgq``, for tensors without data."""
    for function in (
        *(quantize, quantize_gated, pad, channel_ranges, int_linear, int_linear_gated),
        *(unpack, unpack_all, int_conv2d, int_conv2d_packed, conv2d_packed, attention),
        *(soft_weight, soft_weight_gradients, rounding_penalty),
    ):
        torch.library.register_fake(f"dgq::{function.__name__}", function, lib=LIBRARY)


def quantize(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    padding: list[int],
    offset: int | None = None,
) -> Tensor:
    """Meta kernel of ``reference.quantize``."""
    return x.new_empty(reference.padded_shape(x, padding), dtype=reference.code_dtype(offset))


def quantize_gated(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    offset: int | None = None,
) -> Tensor:
    """Meta kernel of ``reference.quantize_gated``."""
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    return x.new_empty(shape, dtype=reference.code_dtype(offset))


def pad(
    codes: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    padding: list[int],
    offset: int | None = None,
) -> Tensor:
    """Meta kernel of ``reference.pad``."""
    return codes.new_empty(reference.padded_shape(codes, padding))


def channel_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Meta kernel of ``reference.channel_ranges``."""
    shape = (x.shape[0], x.shape[-1])
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.float32)


def int_linear(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    """Meta kernel of ``reference.int_linear``."""
    return codes.new_empty((*codes.shape[:-1], weight_scale.shape[0]), dtype=dtype)


def int_linear_gated(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    next_scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    largest: int,
    offset: int | None = None,
) -> Tensor:
    """Meta kernel of ``reference.int_linear_gated``."""
    shape = (*codes.shape[:-1], multiple.shape[0])
    return codes.new_empty(shape, dtype=reference.code_dtype(offset))


def unpack(
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
    channels: int,
) -> Tensor:
    """Meta kernel of ``reference.unpack``."""
    return packed.new_empty((*packed.shape[:2], channels), dtype=torch.int8)


def unpack_all(
    codes: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    layers: Tensor,
    programs: Tensor,
    group_size: int,
    n_bytes: int,
) -> Tensor:
    """Meta kernel of ``reference.unpack_all``."""
    return codes.new_empty(n_bytes, dtype=torch.int8)


def int_conv2d(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    """Meta kernel of ``reference.int_conv2d``."""
    size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
    return codes.new_empty((*size, weight_scale.shape[0]), dtype=dtype)


def int_conv2d_packed(
    codes: Tensor,
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    """Meta kernel of ``reference.int_conv2d_packed``."""
    size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
    return codes.new_empty((*size, weight_scale.shape[0]), dtype=dtype)


def conv2d_packed(
    x: Tensor,
    packed: Tensor,
    zero_point: Tensor,
    shift: Tensor | None,
    group_size: int,
    weight_scale: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Meta kernel of ``reference.conv2d_packed``."""
    size = convolved(x.shape, kernel, stride, padding, dilation)
    return x.new_empty((*size, weight_scale.shape[0]))


def convolved(
    shape: Sequence[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[int, ...]:
    """Batch, height and width of a convolution's output, from ``[batch, height, width, ...]``.

    The input of a linear layer may have any number of dimensions; its output has the same.
    """
    if len(shape) != reference.IMAGE:
        return tuple(shape[:-1])
    sizes = zip(shape[1:3], kernel, stride, padding, dilation, strict=True)
    return shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """Meta kernel of ``reference.attention``."""
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def soft_weight(
    logits: Tensor,
    floor: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    factor: Tensor | None,
    largest: int,
) -> Tensor:
    """Meta kernel of ``reference.soft_weight``."""
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def soft_weight_gradients(
    gradient: Tensor,
    logits: Tensor,
    floor: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    factor: Tensor | None,
    largest: int,
) -> tuple[Tensor, Tensor]:
    """Meta kernel of ``reference.soft_weight_gradients``."""
    of_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return of_logits, torch.empty_like(scale)


def rounding_penalty(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Meta kernel of ``reference.rounding_penalty``."""
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return logits.new_empty(()), gradient
