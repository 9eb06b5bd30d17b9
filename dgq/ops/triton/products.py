"""The operators' products on a GPU."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops import gpu, reference
from dgq.ops.packed_weight import PackedWeight
from dgq.ops.triton.epilogue import Epilogue, accumulator
from dgq.ops.triton.matmul import product, tuned_product
from dgq.ops.triton.tiles import TILES_AT_ONCE, Tile, parts_for
from dgq.ops.triton.tma import convolve_boxes, suits
from dgq.ops.triton.tma_tiles import Shape, tile_for
from dgq.ops.triton.unpack import expanded
from dgq.ops.triton.window import Window

EXPANDED_FROM = 1024
"""Rows from which a packed weight is unpacked once, rather than by every tile of rows.

A guess until it is measured: each of 16 tiles of rows would unpack the same weight.
"""


class Operand(NamedTuple):
    """A weight as the kernel takes it.

    Args:
        values: int8 ``[out, ..., channels]``, taps in between; or packed as ``PackedWeight.codes``.
        zero_point: of a packed weight, as all that follow.
        factor: of input channels.
        shift: of groups of inputs.
        group_size: inputs in a group.
    """

    values: Tensor
    zero_point: Tensor | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None
    group_size: int = 0


POINT = Window([1, 1], [1, 1], [0, 0], [1, 1], 1)
"""Of a linear layer."""


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
    """As ``reference.int_linear``, of signed codes."""
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
    """As ``reference.int_conv2d``, of signed codes and a weight that is channels last."""
    if codes.dtype != torch.int8:
        operands = (codes, weight, weight_scale, scale, bias, step)
        shape = (kernel, stride, dilation, groups)
        return reference.int_conv2d(*operands, *shape, dtype, residual)
    plain = Operand(weight.permute(0, 2, 3, 1).contiguous())
    epilogue = Epilogue(weight_scale, scale, bias, step, residual)
    window = Window(kernel, stride, [0, 0], dilation, groups)
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
    """As ``reference.int_conv2d_packed``, of signed codes."""
    weight = PackedWeight(packed, zero_point, factor, shift, group_size)
    epilogue = Epilogue(weight_scale, scale, bias, step, residual)
    window = Window(kernel, stride, [0, 0], dilation, groups)
    image, operand = as_image(codes), Operand(*weight)
    by_boxes = tile is None and has_copy_engine(image)
    if by_boxes or n_rows(image, window) >= expanded_from:
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
    """As ``reference.conv2d_packed``, of 16-bit activations."""
    weight = PackedWeight(packed, zero_point, None, shift, group_size)
    window = Window(kernel, stride, padding, dilation, groups)
    image = as_image(x)
    if n_rows(image, window) < expanded_from:
        epilogue = Epilogue(weight_scale, None, bias[None], None)
        return as_given(convolve(image, Operand(*weight), epilogue, window, x.dtype, tile), x)
    full = expanded(weight, x.shape[-1] // groups, groups, weight_scale, x.dtype)
    kernels = full.unflatten(1, kernel).permute(0, 3, 1, 2)
    planes = image.permute(0, 3, 1, 2)
    output = F.conv2d(planes, kernels, bias.to(x.dtype), stride, padding, dilation, groups)
    return as_given(output.permute(0, 2, 3, 1), x)


def convolve(
    x: Tensor,
    weight: Operand,
    epilogue: Epilogue,
    window: Window,
    dtype: torch.dtype,
    tile: Tile | None,
) -> Tensor:
    """A convolution of ``[batch, height, width, channels]``.

    Args:
        x: int8 or 16-bit floating point.
        weight: packed or not.
        epilogue: what its sums stand for.
        window: of the convolution.
        dtype: of the output.
        tile: to compute at a time; None for the measured one of boxes, or the fastest candidate.
    """
    rows = n_rows(x, window)
    boxes = _tile_of_boxes(x, weight, window, rows) if tile is None and rows else None
    if boxes is not None:
        return convolve_boxes(x, weight.values, epilogue, window, dtype, boxes)
    batch, height, width, channels = x.shape
    out_height, out_width = window.output(height, width)
    out, depth = weight.values.shape[0], weight.values.shape[-1]
    output = x.new_empty((batch, out_height, out_width, out), dtype=dtype)
    if rows == 0:
        return output
    parts = tile.parts if tile else _parts(x, rows, weight.values)
    sums = accumulator(x.dtype)
    written = output.view(rows, out)
    if parts > 1:
        written = x.new_empty((parts, rows, out), dtype=sums)

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        tiles = triton.cdiv(rows, meta["BLOCK_M"])
        return window.groups * tiles * triton.cdiv(out // window.groups, meta["BLOCK_N"]), parts

    operands = (x, *weight[:4], *epilogue.tables, epilogue.residual, written)
    sizes = (rows, out // window.groups, channels // window.groups, depth, _columns(weight.shift))
    images = (height, width, out_height, out_width, channels, out)
    kernel, options = (product, tile.options()) if tile else (tuned_product, {})
    kernel[grid](
        *(*operands, *sizes, *images, *epilogue.strides, parts),
        **{"KERNEL_H": window.kernel[0], "KERNEL_W": window.kernel[1]},
        **{"STRIDE_H": window.stride[0], "STRIDE_W": window.stride[1]},
        **{"PAD_H": window.padding[0], "PAD_W": window.padding[1]},
        **{"DILATION_H": window.dilation[0], "DILATION_W": window.dilation[1]},
        GROUP_SIZE=weight.group_size,
        PER_ROW=epilogue.per_row,
        SHARED=parts > 1,
        SUMS=tl.int32 if sums == torch.int32 else tl.float32,
        TILES_AT_ONCE=TILES_AT_ONCE,
        **options,
    )
    if parts > 1:
        epilogue.add_parts(written, output.view(rows, out), out_height * out_width)
    return output


def as_image(x: Tensor) -> Tensor:
    """``[batch, ..., channels]`` as one line of pixels for each sample, if it is no image."""
    if x.ndim == reference.IMAGE:
        return x.contiguous()
    return x.contiguous().view(x.shape[0], 1, x.shape[1:-1].numel(), x.shape[-1])


def as_given(output: Tensor, x: Tensor) -> Tensor:
    """What was made of ``as_image(x)``, with the dimensions of ``x``."""
    if x.ndim == reference.IMAGE:
        return output
    return output.reshape(*x.shape[:-1], output.shape[-1])


def n_rows(x: Tensor, window: Window) -> int:
    """Pixels of the output, of all samples."""
    height, width = window.output(x.shape[1], x.shape[2])
    return x.shape[0] * height * width


def has_copy_engine(x: Tensor) -> bool:
    """Whether the device of a tensor copies whole boxes by itself."""
    return x.is_cuda and gpu.has_copy_engine(x.device)


def _tile_of_boxes(x: Tensor, weight: Operand, window: Window, rows: int) -> Tile | None:
    """The tile to multiply boxes with; None where the copy engine cannot load them."""
    bytes_alone = x.dtype == torch.int8 and weight.zero_point is None
    if not (bytes_alone and has_copy_engine(x)):
        return None
    channels, taps = x.shape[-1], window.kernel[0] * window.kernel[1]
    tile = tile_for(Shape(taps, rows, weight.values.shape[0], channels))
    return tile if suits(x, weight.values, window, tile.inputs) else None


def _parts(x: Tensor, rows: int, weight: Tensor) -> int:
    out, inputs = weight.shape[0], weight[0].numel()
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    return parts_for(rows, out, inputs // 64, processors)


def _columns(shift: Tensor | None) -> int:
    return 0 if shift is None else shift.shape[1]
