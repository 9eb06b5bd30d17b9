"""Unpacking of 4-bit weights, in registers or into a tensor."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.packed_weight import PackedWeight
from dgq.ops.triton.launch import KEPT, Launch

ROWS, BYTES = 32, 64
"""Size of the block that one program unpacks, within one tap."""


@triton.jit
def unpacked(
    code,
    row,
    channel,
    tap,
    known,
    zero,
    factor_ptr,
    shift_ptr,
    n_shifts,
    TAPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
):
    """``factor * 2^shift * (code - zero)`` as int8, for codes ``[rows, places]``.

    ``channel`` and ``tap`` belong to each place, and ``known`` says whether it exists;
    ``factor_ptr`` begins at the first channel of the convolution's group.
    """
    # In 32-bit words: bytes would be moved into and out of words at every operation.
    value = code.to(tl.int32) - zero.to(tl.int32)[:, None]
    if factor_ptr is not None:
        factor = tl.load(factor_ptr + channel, mask=known, other=0)
        value = value * factor.to(tl.int32)[None, :]
    if shift_ptr is not None:
        group = (channel * TAPS + tap).to(tl.uint32) // GROUP_SIZE
        shifts = shift_ptr + row[:, None] * n_shifts + group[None, :]
        value = value << tl.load(shifts, mask=known[None, :], other=0).to(tl.int32)
    return value.to(tl.int8)


def expanded(
    weight: PackedWeight, channels: int, groups: int, scale: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The weight ``[out, taps, channels]``, as whole numbers or times ``scale [out]``.

    Args:
        weight: packed.
        channels: channels of one group of the convolution.
        groups: groups of the convolution.
        scale: scale of each output channel; None for whole numbers.
        dtype: int8, or a floating-point one.
    """
    out, taps, _ = weight.codes.shape
    full = weight.codes.new_empty((out, taps, channels), dtype=dtype)
    n_shifts = 0 if weight.shift is None else weight.shift.shape[1]
    launch = _launch_of(weight.codes.shape, channels, groups, n_shifts, weight.group_size)
    launch(*weight[:4], scale, full)
    return full


@lru_cache(KEPT)
def _launch_of(
    codes: tuple[int, int, int], channels: int, groups: int, n_shifts: int, group_size: int
) -> Launch:
    """The launch of ``_expand`` for packed codes of a shape."""
    out, taps, half = codes
    rows = out // groups
    grid = (groups * triton.cdiv(rows, ROWS), taps, triton.cdiv(half, BYTES))
    constants = (taps, group_size, ROWS, BYTES)
    return Launch(_expand, grid, (rows, channels, half, n_shifts, *constants))


def unpack(
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
    channels: int,
) -> Tensor:
    """As ``reference.unpack``."""
    weight = PackedWeight(packed, zero_point, factor, shift, group_size).contiguous()
    return expanded(weight, channels, 1, None, torch.int8)


@triton.jit
def _expand(
    codes_ptr,
    zero_ptr,
    factor_ptr,
    shift_ptr,
    scale_ptr,
    out_ptr,
    rows_of_group,
    channels,
    half,
    n_shifts,
    TAPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    blocks = tl.cdiv(rows_of_group, BLOCK_N)
    group = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = row < rows_of_group
    row = group * rows_of_group + tl.minimum(row, rows_of_group - 1)
    tap = tl.program_id(1)
    low = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    known = low < half
    bytes_at = codes_ptr + row[:, None] * (TAPS * half) + (tap * half + low)[None, :]
    byte = tl.load(bytes_at, mask=known[None, :], other=0).to(tl.int32)
    zero = tl.load(zero_ptr + row)
    if factor_ptr is not None:
        factor_ptr += group * channels
    for part in tl.static_range(2):
        channel = low + part * half
        there = known & (channel < channels)
        code = (byte >> (4 * part)) & 15
        value = unpacked(
            code,
            row,
            channel,
            tap,
            there,
            zero,
            factor_ptr,
            shift_ptr,
            n_shifts,
            TAPS,
            GROUP_SIZE,
        )
        if scale_ptr is None:
            written = value.to(out_ptr.dtype.element_ty)
        else:
            scaled = value.to(tl.float32) * tl.load(scale_ptr + row)[:, None]
            written = scaled.to(out_ptr.dtype.element_ty)
        places = row[:, None] * (TAPS * channels) + (tap * channels + channel)[None, :]
        tl.store(out_ptr + places, written, mask=exists[:, None] & there[None, :])
