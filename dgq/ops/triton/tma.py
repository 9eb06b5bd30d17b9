"""The product of bytes where a copy engine (TMA, from Hopper on) loads whole boxes.

It computes what ``matmul.product`` does, for padded images and one group of channels. A tile is a
box of output pixels, so each tap of its window is a box of the input too, and threads compute no
addresses. Weights are the left operand: only in this order does Triton read both from shared
memory.
"""

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.triton.epilogue import Epilogue, finished
from dgq.ops.triton.launch import ALIGNMENT, KEPT, Boxes, Launch
from dgq.ops.triton.tiles import TILES_AT_ONCE, Tile, place_of_tile
from dgq.ops.triton.window import Window

MOST_PIXELS = 256
"""Largest extent of a box along each dimension."""


SIZES = (
    *("n_samples", "boxes_down", "boxes_right", "boxes_of_samples", "out_channels", "channels"),
    *("scale_stride", "bias_stride"),
)
"""Arguments that are not compiled in, since no operand's address depends on them."""


class Box(NamedTuple):
    """Output pixels of a tile: samples, rows and columns."""

    samples: int
    height: int
    width: int


@triton.jit(do_not_specialize=SIZES)
def product_of_boxes(
    x_desc,
    weight_desc,
    residual_desc,
    out_desc,
    weight_scale_ptr,
    scale_ptr,
    bias_ptr,
    step_ptr,
    n_samples,
    boxes_down,
    boxes_right,
    boxes_of_samples,
    out_channels,
    channels,
    scale_stride,
    bias_stride,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    PARTS: tl.constexpr,
    SAMPLES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES_AT_ONCE: tl.constexpr,
):
    BLOCK_M: tl.constexpr = SAMPLES * HEIGHT * WIDTH

    tiles_m = boxes_of_samples * boxes_down * boxes_right
    tiles_n = tl.cdiv(out_channels, BLOCK_N)
    box, tile_n = place_of_tile(tl.program_id(0), tiles_m, tiles_n, TILES_AT_ONCE)
    first_column = tile_n * BLOCK_N
    left = box % boxes_right * WIDTH
    top = box // boxes_right % boxes_down * HEIGHT
    first_sample = box // (boxes_right * boxes_down) * SAMPLES

    blocks = tl.cdiv(channels, BLOCK_K)
    each = tl.cdiv(KERNEL_H * KERNEL_W * blocks, PARTS)
    first = tl.program_id(1) * each
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for block in range(first, tl.minimum(first + each, KERNEL_H * KERNEL_W * blocks)):
        tap = block // blocks
        down, right = tap // KERNEL_W, tap % KERNEL_W
        channel = block % blocks * BLOCK_K
        # Channels beyond the last are read as zeros, so their weights do not matter.
        place = right % STRIDE * channels + channel
        value = x_desc.load(
            [first_sample, top + down // STRIDE, down % STRIDE, left + right // STRIDE, place]
        )
        weight = weight_desc.load([first_column, tap * channels + channel])
        value = value.reshape(BLOCK_M, BLOCK_K)
        sums = tl.dot(weight, value.T, sums, out_dtype=tl.int32)

    column = first_column + tl.arange(0, BLOCK_N)
    column = tl.minimum(column, out_channels - 1)
    output = sums.T
    if PARTS == 1:
        sample = first_sample + tl.arange(0, BLOCK_M) // (HEIGHT * WIDTH)
        sample = tl.minimum(sample, n_samples - 1)
        output = finished(
            output,
            sample,
            column,
            1,
            weight_scale_ptr,
            scale_ptr,
            bias_ptr,
            step_ptr,
            scale_stride,
            bias_stride,
            PER_SAMPLE,
        )
        if residual_desc is not None:
            residual = residual_desc.load([0, first_sample, top, left, first_column])
            output += residual.reshape(BLOCK_M, BLOCK_N).to(tl.float32)
    output = output.to(out_desc.dtype).reshape(1, SAMPLES, HEIGHT, WIDTH, BLOCK_N)
    out_desc.store([tl.program_id(1), first_sample, top, left, first_column], output)


def suits(x: tuple[int, ...], weight: tuple[int, ...], window: Window, tile_inputs: int) -> bool:
    """Whether the copy engine can load the boxes of a product.

    Args:
        x: the shape ``[batch, height, width, channels]`` of bytes.
        weight: the shape ``[out, taps, channels]`` of bytes.
        window: window of the convolution.
        tile_inputs: channels that a tile loads at a time.
    """
    stride, channels = window.stride[0], x[-1]
    aligned = channels % ALIGNMENT == 0 and weight[0] * 2 % ALIGNMENT == 0
    plain = window.groups == 1 and {*window.dilation} == {1} and not any(window.padding)
    whole = {*window.stride} == {stride} and not any(n % stride for n in x[1:3])
    # With a stride, channels beyond the last are those of the next pixel.
    return aligned and plain and whole and (stride == 1 or channels % tile_inputs == 0)


def convolve_boxes(
    x: Tensor, weight: Tensor, epilogue: Epilogue, window: Window, dtype: torch.dtype, tile: Tile
) -> Tensor:
    """A convolution of ``[batch, height, width, channels]``, for operands that ``suits`` accepts.

    Args:
        x: int8.
        weight: int8 ``[out, ..., channels]``, contiguous.
        epilogue: turns the sums into outputs.
        window: window of the convolution.
        dtype: dtype of the output.
        tile: tile of a program.
    """
    out = weight.shape[0]
    launch = _launch_of(x.shape, out, window, epilogue.strides, epilogue.per_row, tile)
    down, right = window.output(*x.shape[1:3])
    output = x.new_empty((x.shape[0], down, right, out), dtype=dtype)
    if tile.parts == 1:
        residual = None if epilogue.residual is None else epilogue.residual.view(output.shape)
        launch(x, weight, residual, output, *epilogue.tables)
        return output
    sums = x.new_empty((tile.parts, output.numel() // out, out), dtype=torch.int32)
    launch(x, weight, None, sums, *epilogue.tables)
    epilogue.add_parts(sums, output, down * right)
    return output


@lru_cache(KEPT)
def _launch_of(
    x: tuple[int, ...],
    out: int,
    window: Window,
    strides: tuple[int, int],
    per_sample: bool,
    tile: Tile,
) -> Launch:
    """The launch of ``product_of_boxes``.

    Args:
        x: the shape ``[batch, height, width, channels]`` of the codes.
        out: channels of the output.
        window: window of the convolution.
        strides: strides of the epilogue's tables.
        per_sample: whether each sample has its own step.
        tile: tile of a program.
    """
    batch, height, width, channels = x
    if window.is_point and not per_sample:  # regardless of samples, so that boxes are full
        batch, height, width = 1, 1, batch * height * width
    down, right = window.output(height, width)
    stride = window.stride[0]
    box = box_of(tile.rows, batch, down, right)
    boxes = [triton.cdiv(n, size) for n, size in zip((batch, down, right), box, strict=True)]
    phases = (batch, height // stride, stride, width // stride, stride * channels)
    of_output = Boxes((tile.parts, batch, down, right, out), (1, *box, tile.columns))
    return Launch(
        product_of_boxes,
        (boxes[0] * boxes[1] * boxes[2] * triton.cdiv(out, tile.columns), tile.parts),
        (
            *(batch, boxes[1], boxes[2], boxes[0], out, channels, *strides),
            *(*window.kernel, stride, per_sample, tile.parts, *box),
            *(tile.columns, tile.inputs, TILES_AT_ONCE),
        ),
        [
            Boxes(phases, (box.samples, box.height, 1, box.width, tile.inputs)),
            Boxes((out, math.prod(window.kernel) * channels), (tile.columns, tile.inputs)),
            *(of_output, of_output),
        ],
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


@lru_cache
def box_of(pixels: int, batch: int, height: int, width: int) -> Box:
    """The box with this many pixels that leaves the fewest pixels of an image's boxes empty.

    Args:
        pixels: pixels of the box, a power of two.
        batch: number of samples.
        height: height of the output.
        width: width of the output.
    """
    powers = [1 << n for n in range(MOST_PIXELS.bit_length())]
    shapes = [
        Box(pixels // (down * right), down, right)
        for down, right in product(powers, powers)
        if 0 < pixels // (down * right) <= MOST_PIXELS
    ]
    return min(shapes, key=lambda box: (_covered(box, batch, height, width), -box.width))


def _covered(box: Box, *image: int) -> int:
    """Pixels of all boxes that cover an image of these samples, rows and columns."""
    return math.prod(-(-n // size) * size for n, size in zip(image, box, strict=True))
