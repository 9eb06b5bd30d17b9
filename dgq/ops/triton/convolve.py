"""A convolution on a GPU, from boxes that the copy engine loads or tiles that a kernel loads."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.copy_engine import has_copy_engine
from dgq.ops.triton.epilogue import Epilogue, accumulator
from dgq.ops.triton.launch import KEPT
from dgq.ops.triton.matmul import product, tuned_product
from dgq.ops.triton.tiles import TILES_AT_ONCE, Tile, parts_for
from dgq.ops.triton.tma import convolve_boxes, suits
from dgq.ops.triton.tma_tiles import Shape, tile_for
from dgq.ops.triton.window import Window


class Operand(NamedTuple):
    """A weight as the kernel reads it.

    Args:
        values: int8 ``[out, taps, channels]``, or packed as ``PackedWeight.codes``.
        zero_point: zero points of a packed weight; all that follow belong to one too.
        factor: factors of input channels.
        shift: shifts of groups of inputs.
        group_size: inputs per group.
    """

    values: Tensor
    zero_point: Tensor | None = None
    factor: Tensor | None = None
    shift: Tensor | None = None
    group_size: int = 0


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
        epilogue: turns the sums into outputs.
        window: window of the convolution.
        dtype: dtype of the output.
        tile: tile of a program; None for the measured one with boxes, else the fastest candidate.
    """
    boxes = _tile_of_boxes(x, weight, window) if tile is None else None
    if boxes is not None:
        return convolve_boxes(x, weight.values, epilogue, window, dtype, boxes)
    batch, height, width, channels = x.shape
    out_height, out_width = window.output(height, width)
    out, depth = weight.values.shape[0], weight.values.shape[-1]
    output = x.new_empty((batch, out_height, out_width, out), dtype=dtype)
    rows = batch * out_height * out_width
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
        epilogue.add_parts(written, output, out_height * out_width)
    return output


def n_rows(x: tuple[int, ...], window: Window) -> int:
    """Number of output pixels, over all samples of ``[batch, height, width, channels]``."""
    return x[0] * math.prod(window.output(*x[1:3]))


def _tile_of_boxes(x: Tensor, weight: Operand, window: Window) -> Tile | None:
    """The tile for a product of boxes; None if the copy engine cannot load them."""
    bytes_alone = x.dtype == torch.int8 and weight.zero_point is None
    if not (bytes_alone and has_copy_engine(x.device)):
        return None
    return _tile_of_shapes(x.shape, weight.values.shape, window)


@lru_cache(KEPT)
def _tile_of_shapes(x: tuple[int, ...], weight: tuple[int, ...], window: Window) -> Tile | None:
    rows = n_rows(x, window)
    if rows == 0:
        return None
    tile = tile_for(Shape(math.prod(window.kernel), rows, weight[0], x[-1]))
    return tile if suits(x, weight, window, tile.inputs) else None


def _parts(x: Tensor, rows: int, weight: Tensor) -> int:
    out, inputs = weight.shape[0], weight[0].numel()
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    return parts_for(rows, out, inputs // 64, processors)


def _columns(shift: Tensor | None) -> int:
    return 0 if shift is None else shift.shape[1]
