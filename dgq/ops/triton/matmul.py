"""One kernel for all products: a convolution as a product of matrices that are never stored.

Rows are the output's pixels, columns its channels; the sum runs over the taps of the window, and
within a tap over the channels. A linear layer has one tap. Images are channels last.
"""

import triton
import triton.language as tl

from dgq.ops.triton.epilogue import finished
from dgq.ops.triton.tiles import configurations, place_of_tile, worth_trying
from dgq.ops.triton.unpack import unpacked


@triton.jit
def product(
    x_ptr,
    weight_ptr,
    zero_ptr,
    factor_ptr,
    shift_ptr,
    weight_scale_ptr,
    scale_ptr,
    bias_ptr,
    step_ptr,
    residual_ptr,
    out_ptr,
    n_rows,
    out_channels,  # of one group, as all channels but the last two
    channels,
    depth,
    n_shifts,
    height,
    width,
    out_height,
    out_width,
    x_channels,
    all_channels,
    scale_stride,
    bias_stride,
    parts,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PER_ROW: tl.constexpr,
    SHARED: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILES_AT_ONCE: tl.constexpr,
):
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    PACKED: tl.constexpr = zero_ptr is not None
    PADS: tl.constexpr = PAD_H + PAD_W > 0

    tiles_m, tiles_n = tl.cdiv(n_rows, BLOCK_M), tl.cdiv(out_channels, BLOCK_N)
    group = tl.program_id(0) // (tiles_m * tiles_n)
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    tile_m, tile_n = place_of_tile(tile, tiles_m, tiles_n, TILES_AT_ONCE)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = (row < n_rows)[:, None] & (column < out_channels)[None, :]
    # Rows outside load the last row again, whose result is not written: no masks are needed.
    row = tl.minimum(row, n_rows - 1)
    column = group * out_channels + tl.minimum(column, out_channels - 1)

    pixels = out_height * out_width
    sample, pixel = row // pixels, row % pixels
    top = pixel // out_width * STRIDE_H - PAD_H
    left = pixel % out_width * STRIDE_W - PAD_W
    corner = ((sample.to(tl.int64) * height + top) * width + left) * x_channels + group * channels
    if factor_ptr is not None:
        factor_ptr += group * channels
    if PACKED:
        zero = tl.load(zero_ptr + column)
        sums = tl.zeros((BLOCK_N, BLOCK_M), SUMS)
    else:
        sums = tl.zeros((BLOCK_M, BLOCK_N), SUMS)

    blocks = tl.cdiv(depth, BLOCK_K)
    each = tl.cdiv(TAPS * blocks, parts)
    first = tl.program_id(1) * each
    for block in range(first, tl.minimum(first + each, TAPS * blocks)):
        tap = block // blocks
        down, right = tap // KERNEL_W * DILATION_H, tap % KERNEL_W * DILATION_W
        channel = block % blocks * BLOCK_K + tl.arange(0, BLOCK_K)
        known = channel < depth
        at = corner + (down * width + right) * x_channels
        inside = row >= 0
        if PADS:
            y, x = top + down, left + right
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        if PACKED:
            # The weight comes from registers, which Hopper accepts only as the left operand.
            bytes_at = weight_ptr + (column[:, None] * TAPS + tap) * depth + channel[None, :]
            byte = tl.load(bytes_at, mask=known[None, :], other=0)
            x_at = x_ptr + at[None, :] + channel[:, None]
            for part in tl.static_range(2):
                there = known & (channel + part * depth < channels)
                weight = unpacked(
                    (byte >> (4 * part)) & 15,
                    column,
                    channel + part * depth,
                    tap,
                    there,
                    zero,
                    factor_ptr,
                    shift_ptr,
                    n_shifts,
                    TAPS,
                    GROUP_SIZE,
                )
                mask = there[:, None] & inside[None, :] if PADS else there[:, None]
                value = tl.load(x_at + part * depth, mask=mask, other=0)
                weight = weight.to(x_ptr.dtype.element_ty)
                sums = tl.dot(weight, value, sums, out_dtype=SUMS)
        else:
            weights_at = weight_ptr + (column[None, :] * TAPS + tap) * depth + channel[:, None]
            weight = tl.load(weights_at, mask=known[:, None], other=0)
            mask = known[None, :] & inside[:, None] if PADS else known[None, :]
            value = tl.load(x_ptr + at[:, None] + channel[None, :], mask=mask, other=0)
            sums = tl.dot(value, weight, sums, out_dtype=SUMS)

    if PACKED:
        sums = tl.trans(sums)
    places = row.to(tl.int64)[:, None] * all_channels + column[None, :]
    if SHARED:  # with other programs, which sum up the other inputs
        of_part = tl.program_id(1) * tl.cast(n_rows, tl.int64) * all_channels
        tl.store(out_ptr + of_part + places, sums, mask=exists)
    else:
        value = finished(
            sums,
            row,
            column,
            pixels,
            weight_scale_ptr,
            scale_ptr,
            bias_ptr,
            step_ptr,
            scale_stride,
            bias_stride,
            PER_ROW,
        )
        if residual_ptr is not None:
            value += tl.load(residual_ptr + places, mask=exists).to(tl.float32)
        tl.store(out_ptr + places, value.to(out_ptr.dtype.element_ty), mask=exists)


SHAPE = ["n_rows", "out_channels", "depth", "KERNEL_H", "KERNEL_W", "STRIDE_H", "parts"]

tuned_product = triton.autotune(
    configurations(),
    key=SHAPE,
    prune_configs_by={"early_config_prune": worth_trying},
    cache_results=True,
)(product)
"""Times the candidates at the first call with a shape, and stores the result on disk."""
