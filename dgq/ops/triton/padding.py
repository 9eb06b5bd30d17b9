"""Padded images: where each padded pixel comes from, and codes padded with codes of zero."""

from functools import lru_cache

import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.reference import padded_shape
from dgq.ops.triton.codes import code_of
from dgq.ops.triton.launch import KEPT, Launch

PIXELS, CHANNELS = 16, 128
"""Size of the block that one program copies."""


@triton.jit
def unpadded(pixel, n_pixels, height, width, PAD_H: tl.constexpr, PAD_W: tl.constexpr):
    """Sample and unpadded position of padded pixels, and which of them lie inside the image."""
    padded_h, padded_w = height + 2 * PAD_H, width + 2 * PAD_W
    sample = pixel // (padded_h * padded_w)
    y = pixel // padded_w % padded_h - PAD_H
    x = pixel % padded_w - PAD_W
    inside = (pixel < n_pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return sample, (sample.to(tl.int64) * height + y) * width + x, inside


def pad(
    codes: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    padding: list[int],
    offset: int | None = None,
) -> Tensor:
    """As ``reference.pad``, bit for bit."""
    padded = codes.new_empty(padded_shape(codes, padding))
    if padded.numel() > 0:
        steps = (zero_point.shape[0] > 1, zero_point.shape[0] > 1 and step.shape[0] > 1)
        around = (*padding, float(largest), offset or 0)
        launch = _launch_of(codes.shape, padded.numel(), *around, *steps)
        tables = (zero_point, factor, step)
        launch(codes.contiguous(), *[table.contiguous() for table in tables], padded)
    return padded


@lru_cache(KEPT)
def _launch_of(
    codes: tuple[int, int, int, int],
    n_padded: int,
    up: int,
    left: int,
    largest: float,
    offset: int,
    per_step: bool,
    per_row: bool,
) -> Launch:
    """The launch of ``_pad`` for codes of a shape, padded by ``up`` and ``left``."""
    _, height, width, channels = codes
    n_pixels = n_padded // channels
    grid = (triton.cdiv(n_pixels, PIXELS), triton.cdiv(channels, CHANNELS))
    constants = (largest, offset, up, left, per_step, per_row, PIXELS, CHANNELS)
    return Launch(_pad, grid, (n_pixels, height, width, channels, *constants))


@triton.jit
def _pad(
    codes_ptr,
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
    exists, known = (pixel < n_pixels)[:, None], (channel < channels)[None, :]
    sample, place, inside = unpadded(pixel, n_pixels, height, width, PAD_H, PAD_W)
    codes = codes_ptr + place[:, None] * channels + channel[None, :]
    code = tl.load(codes, mask=inside[:, None] & known, other=0)
    if PER_ROW:
        step = tl.load(step_ptr + sample, mask=pixel < n_pixels, other=0)[:, None]
    else:
        step = tl.load(step_ptr) if PER_STEP else 0
    zeros = zero_ptr + step * channels + channel[None, :]
    zero = tl.load(zeros, mask=exists & known & ~inside[:, None], other=0).to(tl.float32)
    factor = tl.load(factor_ptr + channel, mask=channel < channels, other=0.0)[None, :]
    of_zero = code_of(tl.zeros_like(zero), zero, factor, LARGEST) - OFFSET
    places = out_ptr + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    whole = tl.where(inside[:, None], code.to(tl.int32), of_zero)
    tl.store(places, whole.to(out_ptr.dtype.element_ty), mask=exists & known)
