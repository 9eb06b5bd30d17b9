"""Images with padding: which pixel each padded one is, and codes of zero around codes."""

from functools import lru_cache

import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.reference import padded_shape
from dgq.ops.triton.launch import KEPT, Launch

PIXELS, CHANNELS = 16, 128
"""That one program copies."""


@triton.jit
def unpadded(pixel, n_pixels, height, width, PAD_H: tl.constexpr, PAD_W: tl.constexpr):
    """The sample and place of padded pixels in what is padded, and which of them it has."""
    padded_h, padded_w = height + 2 * PAD_H, width + 2 * PAD_W
    sample = pixel // (padded_h * padded_w)
    y = pixel // padded_w % padded_h - PAD_H
    x = pixel % padded_w - PAD_W
    inside = (pixel < n_pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return sample, (sample.to(tl.int64) * height + y) * width + x, inside


def pad(codes: Tensor, of_zero: Tensor, padding: list[int]) -> Tensor:
    """As ``reference.pad``."""
    padded = codes.new_empty(padded_shape(codes, padding))
    if padded.numel() > 0:
        launch = _launch_of(codes.shape, padded.numel(), of_zero.shape[0] > 1, *padding)
        launch(codes.contiguous(), of_zero.contiguous(), padded)
    return padded


@lru_cache(KEPT)
def _launch_of(
    codes: tuple[int, int, int, int], n_padded: int, with_own: bool, up: int, left: int
) -> Launch:
    """The launch of ``_pad``; ``with_own`` where each sample has codes of zero of its own."""
    _, height, width, channels = codes
    n_pixels = n_padded // channels
    grid = (triton.cdiv(n_pixels, PIXELS), triton.cdiv(channels, CHANNELS))
    sizes = (n_pixels, height, width, channels, channels if with_own else 0)
    return Launch(_pad, grid, (*sizes, up, left, PIXELS, CHANNELS))


@triton.jit
def _pad(
    codes_ptr,
    zero_ptr,
    out_ptr,
    n_pixels,
    height,
    width,
    channels,
    zero_stride,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists, known = (pixel < n_pixels)[:, None], (channel < channels)[None, :]
    sample, place, inside = unpadded(pixel, n_pixels, height, width, PAD_H, PAD_W)
    codes = codes_ptr + place[:, None] * channels + channel[None, :]
    code = tl.load(codes, mask=inside[:, None] & known, other=0)
    zeros = zero_ptr + sample[:, None] * zero_stride + channel[None, :]
    zero = tl.load(zeros, mask=exists & known & ~inside[:, None], other=0)
    places = out_ptr + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(places, tl.where(inside[:, None], code, zero), mask=exists & known)
