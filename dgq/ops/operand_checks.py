"""Which tensors our own CPU kernels accept. The kernels check nothing.

Each check is False where sizes or steps do not agree, so that torch raises the error.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from dgq.ops import tile_layout

READ = (torch.float32, torch.bfloat16)
"""Dtypes that the kernels quantize, find ranges of, and write products in."""


def can_quantize(
    x: Tensor,
    channels: int,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
) -> bool:
    """Whether the kernels quantize these tensors, to this number of channels."""
    return (
        x.dtype in READ
        and x.numel() > 0
        and step.shape in ((1,), x.shape[:1])
        and _make_codes(channels, scale, multiple, zero_point, factor, step)
    )


def can_attend(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> bool:
    """Whether the kernel of attention accepts this input, in bfloat16."""
    batch, _, width = query.shape
    return (
        query.dtype == key.dtype == value.dtype == torch.bfloat16
        and key.shape == value.shape
        and key.shape[::2] == (batch, width)
        and width % heads == 0
        and key.shape[1] > 0
        and scale >= 0
    )


def can_convolve(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    stride: list[int],
    dilation: list[int],
) -> bool:
    """Whether the kernel without tiles multiplies codes with a weight ``[out, in, *kernel]``."""
    return (
        _are_operands(codes, weight, weight_scale, scale, bias, step)
        and weight.shape[:2] == (weight_scale.shape[0], codes.shape[3])
        and sums_fit(weight[0].numel())
        and _has_windows(codes, weight.shape[2:], stride, dilation)
    )


def can_multiply_tiles(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
) -> bool:
    """Whether the kernel with tiles multiplies codes with a weight in tiles."""
    n_out, n_in = weight_scale.shape[0], prod(kernel) * codes.shape[3]
    return (
        _are_operands(codes, weight, weight_scale, scale, bias, step)
        and weight.shape == tile_layout.shape(n_out, n_in)
        and sums_fit(n_in)
        and _has_windows(codes, kernel, stride, dilation)
    )


def can_multiply_tiles_gated(
    operands: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    tables: tuple[Tensor, Tensor, Tensor, Tensor],
) -> bool:
    """The same for a linear layer with a gate, and the tables of its output's quantizer."""
    n_out, step = operands[2].shape[0], operands[5]
    return (
        can_multiply_tiles(*operands, [1, 1], [1, 1], [1, 1])
        and n_out % (2 * tile_layout.LANES) == 0
        and _make_codes(n_out // 2, *tables, step)
    )


def sums_fit(inputs: int) -> bool:
    """Whether 32 bits hold sums of this many products of a byte code and a byte weight."""
    return 255 * 128 * inputs < 2**31


def _make_codes(
    channels: int, scale: Tensor, multiple: Tensor, zero_point: Tensor, factor: Tensor, step: Tensor
) -> bool:
    """Whether tables are those of a quantizer of this number of channels, at all steps."""
    return (
        (zero_point.dtype, step.dtype) == (torch.int16, torch.int64)
        and scale.dtype == multiple.dtype == factor.dtype == torch.float32
        and multiple.shape == factor.shape == (channels,)
        and zero_point.shape == (*scale.shape, channels)
        and _have_rows(step, scale.shape[0])
    )


def _are_operands(
    codes: Tensor, weight: Tensor, weight_scale: Tensor, scale: Tensor, bias: Tensor, step: Tensor
) -> bool:
    """Whether dtypes are right, nothing is empty, and tables have a row for each step."""
    return (
        (codes.dtype, weight.dtype, step.dtype) == (torch.uint8, torch.int8, torch.int64)
        and weight_scale.dtype == scale.dtype == bias.dtype == torch.float32
        and codes.numel() > 0
        and weight.numel() > 0
        and bias.shape[1:] == weight_scale.shape
        and step.shape in ((1,), codes.shape[:1])
        and scale.ndim == 1
        and _have_rows(step, scale.shape[0], bias.shape[0])
    )


def _have_rows(step: Tensor, *n_rows: int) -> bool:
    """Whether tables of these numbers of rows have one for each step; a single row serves all."""
    steps = step.tolist()
    first, last = min(steps), max(steps)
    return all(n == 1 or 0 <= first <= last < n for n in n_rows)


def _has_windows(
    codes: Tensor, kernel: Sequence[int], stride: list[int], dilation: list[int]
) -> bool:
    """Whether windows are inside of images, and there are any."""
    windows = zip(codes.shape[1:3], kernel, dilation, strict=True)
    return min(*kernel, *stride, *dilation) > 0 and all(n > d * (k - 1) for n, k, d in windows)
