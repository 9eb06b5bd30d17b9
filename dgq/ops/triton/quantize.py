"""Quantization of an activation in one pass: divide, round, add, clamp, multiply, pad."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops import reference
from dgq.ops.triton.codes import coded
from dgq.ops.triton.launch import KEPT, Launch
from dgq.ops.triton.padding import unpadded

PIXELS, CHANNELS = 16, 128
"""Size of the block that one program quantizes."""


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
    """As ``reference.quantize``, bit for bit."""
    tables = (scale, multiple, zero_point, factor, step)
    if zero_point.dtype != torch.int16 or x.numel() == 0:
        return reference.quantize(x, *tables, largest, padding, offset)
    shape, dtype = reference.padded_shape(x, padding), reference.code_dtype(offset)
    codes = x.new_empty(shape, dtype=dtype)
    up, left = padding or (0, 0)
    steps = (scale.shape[0] > 1, scale.shape[0] > 1 and step.shape[0] > 1)
    launch = _launch_of(x.shape, codes.numel(), up, left, float(largest), offset or 0, *steps)
    launch(x.contiguous(), *[table.contiguous() for table in tables], codes)
    return codes


@lru_cache(KEPT)
def _launch_of(
    x: torch.Size,
    n_codes: int,
    up: int,
    left: int,
    largest: float,
    offset: int,
    per_step: bool,
    per_row: bool,
) -> Launch:
    """The launch of ``_quantize`` for an activation of a shape, padded by ``up`` and ``left``."""
    channels = x[-1]
    height, width = x[1:3] if len(x) == reference.IMAGE else (1, x[1:-1].numel())
    n_pixels = n_codes // channels
    grid = (triton.cdiv(n_pixels, PIXELS), triton.cdiv(channels, CHANNELS))
    sizes = (n_pixels, height, width, channels)
    constants = (largest, offset, up, left, per_step, per_row, PIXELS, CHANNELS)
    return Launch(_quantize, grid, (*sizes, *constants))


@triton.jit
def _quantize(
    x_ptr,
    scale_ptr,
    multiple_ptr,
    zero_ptr,
    factor_ptr,
    step_ptr,
    out_ptr,
    n_pixels,
    height,
    width,
    channels,
    LARGEST: tl.constexpr,
    OFFSET: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    PER_STEP: tl.constexpr,
    PER_ROW: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    sample, place, inside = unpadded(pixel, n_pixels, height, width, PAD_H, PAD_W)
    known = channel < channels

    value = tl.load(
        x_ptr + place[:, None] * channels + channel[None, :],
        mask=inside[:, None] & known[None, :],
        other=0.0,
    ).to(tl.float32)
    multiple = tl.load(multiple_ptr + channel, mask=known, other=1.0)
    factor = tl.load(factor_ptr + channel, mask=known, other=0.0)
    if PER_ROW:
        step = tl.load(step_ptr + sample, mask=pixel < n_pixels, other=0)
        divisor = tl.load(scale_ptr + step)[:, None] * multiple[None, :]
        zeros = zero_ptr + step[:, None] * channels + channel[None, :]
        zero = tl.load(zeros, mask=known[None, :], other=0).to(tl.float32)
    else:
        step = tl.load(step_ptr) if PER_STEP else 0
        divisor = (tl.load(scale_ptr + step) * multiple)[None, :]
        zeros = zero_ptr + step * channels + channel
        zero = tl.load(zeros, mask=known, other=0).to(tl.float32)[None, :]

    whole = coded(value, divisor, zero, factor[None, :], LARGEST) - OFFSET
    places = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(
        out_ptr + places,
        whole.to(out_ptr.dtype.element_ty),
        mask=(pixel < n_pixels)[:, None] & known[None, :],
    )
