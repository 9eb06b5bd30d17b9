"""A linear layer, its GEGLU and the quantization of the result as one kernel.

The intermediate results, four bytes per code, are never written. For Hopper's copy engine, as in
``tma``; a tile holds the values of some channels and their gates.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops import reference
from dgq.ops.triton.codes import code_of
from dgq.ops.triton.epilogue import Epilogue, finished
from dgq.ops.triton.launch import ALIGNMENT, KEPT, Boxes, Launch
from dgq.ops.triton.products import int_linear
from dgq.ops.triton.tiles import TILES_AT_ONCE, Tile, place_of_tile

TILE = Tile(128, 64, 64, warps=4, stages=4)
"""As many values as gates: the tile that was fastest at all measured shapes of GEGLUs."""

SIZES = ("n_rows", "out_channels", "channels", "scale_stride", "bias_stride", "next_stride")
"""Arguments that are not compiled in: one compiled kernel serves all their values."""

SQRT_HALF = tl.constexpr(0.5**0.5)
MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)


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
    tile: Tile | None = None,
) -> Tensor:
    """As ``reference.int_linear_gated``, up to a code at values midway between two."""
    tables = (next_scale, multiple, zero_point, factor)
    epilogue = Epilogue(weight_scale, scale, bias, step)
    own_steps = step.shape[0] > 1 and (epilogue.per_row or next_scale.shape[0] > 1)
    if own_steps or not _suits(codes, weight, zero_point, offset):
        operands = (codes, weight, weight_scale, scale, bias, step)
        output = int_linear(*operands, torch.float32, tile=tile)
        return reference.quantize_gated(output, *tables, step, largest, offset)
    strides = (*epilogue.strides, int(next_scale.shape[0] > 1))
    shapes = (codes.shape[:-1].numel(), *weight.shape)
    launch = _launch_of(*shapes, strides, float(largest), offset, tile or TILE)
    output = codes.new_empty((*codes.shape[:-1], weight.shape[0] // 2))
    of_output = [table.contiguous() for table in tables]
    launch(codes.contiguous(), weight.contiguous(), output, *epilogue.tables, *of_output)
    return output


@lru_cache(KEPT)
def _launch_of(
    n_rows: int,
    out: int,
    channels: int,
    strides: tuple[int, int, int],
    largest: float,
    offset: int | None,
    tile: Tile,
) -> Launch:
    """The launch of ``gated_product`` for a weight ``[out, channels]`` and strides of tables."""
    n_codes = out // 2
    tiles = triton.cdiv(n_rows, tile.rows) * triton.cdiv(n_codes, tile.columns)
    sizes = (n_rows, n_codes, channels, *strides)
    constants = (largest, offset, tile.rows, tile.columns, tile.inputs, TILES_AT_ONCE)
    return Launch(
        gated_product,
        (tiles,),
        (*sizes, *constants),
        [
            Boxes((n_rows, channels), (tile.rows, tile.inputs)),
            Boxes((out, channels), (tile.columns, tile.inputs)),
            Boxes((n_rows, n_codes), (tile.rows, tile.columns)),
        ],
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _suits(codes: Tensor, weight: Tensor, zero_point: Tensor, offset: int | None) -> bool:
    """Whether the copy engine can load and store the boxes of a product."""
    aligned = weight.shape[1] % ALIGNMENT == 0 and weight.shape[0] % (2 * ALIGNMENT) == 0
    typed = codes.dtype == torch.int8 and zero_point.dtype == torch.int16 and offset is not None
    return aligned and typed and codes.numel() > 0


@triton.jit(do_not_specialize=SIZES)
def gated_product(
    x_desc,
    weight_desc,
    out_desc,
    weight_scale_ptr,
    scale_ptr,
    bias_ptr,
    step_ptr,
    next_scale_ptr,
    multiple_ptr,
    zero_ptr,
    factor_ptr,
    n_rows,
    out_channels,
    channels,
    scale_stride,
    bias_stride,
    next_stride,
    LARGEST: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES_AT_ONCE: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(n_rows, BLOCK_M), tl.cdiv(out_channels, BLOCK_N)
    tile_m, tile_n = place_of_tile(tl.program_id(0), tiles_m, tiles_n, TILES_AT_ONCE)
    first_row, first_column = tile_m * BLOCK_M, tile_n * BLOCK_N
    values = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    gates = tl.zeros((BLOCK_N, BLOCK_M), tl.int32)
    for channel in range(0, channels, BLOCK_K):
        # Weights are the left operand, as in product_of_boxes.
        x = x_desc.load([first_row, channel])
        of_values = weight_desc.load([first_column, channel])
        of_gates = weight_desc.load([out_channels + first_column, channel])
        values = tl.dot(of_values, x.T, values, out_dtype=tl.int32)
        gates = tl.dot(of_gates, x.T, gates, out_dtype=tl.int32)

    row = tl.zeros((BLOCK_M,), tl.int32)  # of the tables: all samples share it
    column = first_column + tl.arange(0, BLOCK_N)
    column = tl.minimum(column, out_channels - 1)
    value = finished(
        values.T,
        row,
        column,
        1,
        weight_scale_ptr,
        scale_ptr,
        bias_ptr,
        step_ptr,
        scale_stride,
        bias_stride,
        False,
    )
    gate = finished(
        gates.T,
        row,
        out_channels + column,
        1,
        weight_scale_ptr,
        scale_ptr,
        bias_ptr,
        step_ptr,
        scale_stride,
        bias_stride,
        False,
    )
    value *= gelu(gate)

    step = tl.load(step_ptr) * next_stride
    divisor = tl.load(next_scale_ptr + step) * tl.load(multiple_ptr + column)
    zero = tl.load(zero_ptr + step * out_channels + column).to(tl.float32)
    factor = tl.load(factor_ptr + column)
    # Dividing each value would take as long as GELU.
    whole = code_of(value * (1 / divisor)[None, :], zero[None, :], factor[None, :], LARGEST)
    out_desc.store([first_row, first_column], (whole - OFFSET).to(tl.int8))


@triton.jit
def gelu(x):
    """``x`` times the normal distribution function, with an error of at most 2e-7 of ``x``.

    The error function is Abramowitz and Stegun's 7.1.26, which takes a third of the instructions of
    ``erf``; those take a GPU longer than the product.
    """
    z = tl.abs(x) * SQRT_HALF
    t = 1 / (1 + 0.3275911 * z)
    polynomial = 1.061405429 * t - 1.453152027
    polynomial = polynomial * t + 1.421413741
    polynomial = polynomial * t - 0.284496736
    polynomial = polynomial * t + 0.254829592
    beyond = 0.5 * polynomial * t * tl.exp2(z * z * MINUS_LOG2_E)  # of the distribution, beyond |x|
    return x * tl.where(x < 0, beyond, 1 - beyond)
