"""The operators' products as Triton kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgq.ops import reference
from dgq.ops.copy_engine import has_copy_engine
from dgq.ops.packed_weight import PackedWeight
from dgq.ops.triton.convolve import Operand, convolve, n_rows
from dgq.ops.triton.epilogue import Epilogue
from dgq.ops.triton.tiles import Tile
from dgq.ops.triton.unpack import expanded
from dgq.ops.triton.window import Window

EXPANDED_FROM = 1024
"""Rows from which a packed weight is unpacked once, instead of by every tile of rows.

Not measured yet: each of 16 tiles of rows would unpack the same weight.
"""

POINT = Window((1, 1), (1, 1), (0, 0), (1, 1), 1)
"""Window of a linear layer."""


def int_linear(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dtype: torch.dtype,
    residual: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """As ``reference.int_linear``, for signed codes."""
    if codes.dtype != torch.int8:
        tables = (weight_scale, scale, bias, step)
        return reference.int_linear(codes, weight, *tables, dtype, residual)
    plain = Operand(weight.contiguous())
    epilogue = Epilogue(weight_scale, scale, bias, step, residual)
    return as_given(convolve(as_image(codes), plain, epilogue, POINT, dtype, tile), codes)


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
    tile: Tile | None = None,
) -> Tensor:
    """As ``reference.int_conv2d``, for signed codes and a channels-last weight."""
    if codes.dtype != torch.int8:
        operands = (codes, weight, weight_scale, scale, bias, step)
        shape = (kernel, stride, dilation, groups)
        return reference.int_conv2d(*operands, *shape, dtype, residual)
    plain = Operand(weight.permute(0, 2, 3, 1).contiguous())
    epilogue = Epilogue(weight_scale, scale, bias, step, residual)
    window = Window.of(kernel, stride, (0, 0), dilation, groups)
    return convolve(codes.contiguous(), plain, epilogue, window, dtype, tile)


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
    tile: Tile | None = None,
    expanded_from: int = EXPANDED_FROM,
) -> Tensor:
    """As ``reference.int_conv2d_packed``, for signed codes."""
    weight = PackedWeight(packed, zero_point, factor, shift, group_size).contiguous()
    epilogue = Epilogue(weight_scale, scale, bias, step, residual)
    window = Window.of(kernel, stride, (0, 0), dilation, groups)
    image, operand = as_image(codes), Operand(*weight)
    by_boxes = tile is None and has_copy_engine(image.device)
    if by_boxes or n_rows(image.shape, window) >= expanded_from:
        operand = Operand(expanded(weight, image.shape[-1] // groups, groups, None, torch.int8))
    return as_given(convolve(image, operand, epilogue, window, dtype, tile), codes)


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
    tile: Tile | None = None,
    expanded_from: int = EXPANDED_FROM,
) -> Tensor:
    """As ``reference.conv2d_packed``, for 16-bit activations."""
    weight = PackedWeight(packed, zero_point, None, shift, group_size).contiguous()
    window = Window.of(kernel, stride, padding, dilation, groups)
    image = as_image(x)
    if n_rows(image.shape, window) < expanded_from:
        epilogue = Epilogue(weight_scale, None, bias[None], None)
        return as_given(convolve(image, Operand(*weight), epilogue, window, x.dtype, tile), x)
    full = expanded(weight, x.shape[-1] // groups, groups, weight_scale.contiguous(), x.dtype)
    kernels = full.unflatten(1, kernel).permute(0, 3, 1, 2)
    planes = image.permute(0, 3, 1, 2)
    output = F.conv2d(planes, kernels, bias.to(x.dtype), stride, padding, dilation, groups)
    return as_given(output.permute(0, 2, 3, 1), x)


def as_image(x: Tensor) -> Tensor:
    """``[batch, ..., channels]`` as an image of one line per sample, unless it is one already."""
    if x.ndim == reference.IMAGE:
        return x.contiguous()
    return x.contiguous().view(x.shape[0], 1, x.shape[1:-1].numel(), x.shape[-1])


def as_given(output: Tensor, x: Tensor) -> Tensor:
    """An output computed from ``as_image(x)``, with the dimensions of ``x``."""
    if x.ndim == reference.IMAGE:
        return output
    return output.reshape(*x.shape[:-1], output.shape[-1])
