"""4-bit weights of several layers as bytes, in one launch (``unpack`` takes one per layer).

Four codes are unpacked at once, in the bytes of a 32-bit word. A word is the sum of its bytes'
values times 1, 2^8, 2^16 and 2^24, negative values included: it may be multiplied and added to like
any number, as long as the resulting values lie in -128 to 127. Adding 128 to each, and inverting
the highest bit of each byte, yields the bytes.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.packed_together import BYTES, ROWS, TIMES, WORD, Place
from dgq.ops.triton.launch import KEPT, Launch

WARPS = 2
"""Warps of a program; each of their threads unpacks 16 bytes at a time."""

FIELDS = tl.constexpr(len(Place._fields))
ONES = tl.constexpr(0x01010101)
FIFTEENS = tl.constexpr(0x0F0F0F0F)
HALVES = tl.constexpr(0x80808080)


def unpack_all(
    codes: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    layers: Tensor,
    programs: Tensor,
    group_size: int,
    n_bytes: int,
) -> Tensor:
    """As ``reference.unpack_all``."""
    words = codes.new_empty(n_bytes // WORD, dtype=torch.int32)
    launch = _launch_of(programs.shape[0], group_size)
    launch(
        codes.contiguous().view(torch.int32),
        zero_point.contiguous(),
        None if factor is None else factor.contiguous().view(torch.int32),
        None if shift is None else shift.contiguous(),
        layers.contiguous(),
        programs.contiguous(),
        words,
    )
    return words.view(torch.int8)


@lru_cache(KEPT)
def _launch_of(n_programs: int, group_size: int) -> Launch:
    constants = (max(1, group_size), ROWS, BYTES // WORD, TIMES)
    return Launch(_expand_all, (n_programs,), constants, num_warps=WARPS)


@triton.jit
def _expand_all(
    codes_ptr,
    zero_ptr,
    factor_ptr,
    shift_ptr,
    layers_ptr,
    programs_ptr,
    out_ptr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TIMES: tl.constexpr,
):
    layer = layers_ptr + tl.load(programs_ptr + tl.program_id(0)) * FIELDS
    codes_at = tl.multiple_of(tl.load(layer) // 4, 4)
    out_at = tl.multiple_of(tl.load(layer + 1) // 4, 4)
    zero_at, factor_at, shift_at = tl.load(layer + 2), tl.load(layer + 3), tl.load(layer + 4)
    rows, taps = tl.load(layer + 5), tl.load(layer + 6)
    half = tl.multiple_of(tl.load(layer + 7) // 4, 4)
    groups = tl.load(layer + 8)
    program = tl.program_id(0) - tl.load(layer + 9)
    blocks = tl.cdiv(half, BLOCK_K)
    # In one dimension: with two, some versions of Triton would exchange bytes between threads.
    place = tl.arange(0, BLOCK_N * BLOCK_K)
    word = program % blocks * BLOCK_K + place % BLOCK_K
    known = word < half
    times = tl.maximum(TIMES // taps, 1)
    first_row = program // blocks * (times * BLOCK_N)
    # One half at a time: both together would take too many registers.
    for part in range(2):
        channels = word + part * half
        factor = _factors(factor_ptr, factor_at, channels, known)
        for time in range(times):
            row = first_row + time * BLOCK_N + place // BLOCK_K
            exists = known & (row < rows)
            zero = tl.load(zero_ptr + zero_at + row, mask=exists, other=0).to(tl.uint32)
            of_row = shift_at + row * groups
            power, more, counts = _powers(
                shift_ptr, shift_at, of_row, channels, taps, exists, GROUP_SIZE
            )
            for tap in range(taps):
                line = (row * taps + tap) * half
                codes = tl.load(codes_ptr + codes_at + line + word, mask=exists, other=0)
                codes = (codes.to(tl.uint32, bitcast=True) >> (4 * part)) & FIFTEENS
                value = _centred(codes, zero, factor, factor_at)
                counts -= ONES
                value = _shifted(value, power, more, counts)
                written = out_ptr + out_at + 2 * line + channels
                tl.store(written, value.to(tl.int32, bitcast=True), mask=exists)


@triton.jit
def _factors(factor_ptr, factor_at, channels, known):
    """The factors of the channels of some words, four per word."""
    factor = tl.zeros_like(channels)
    if factor_ptr is not None:  # noqa: SIM102, known as it compiles
        if factor_at >= 0:
            factors = factor_ptr + tl.multiple_of(factor_at // 4, 4)
            factor = tl.load(factors + channels, mask=known, other=0)
    return factor.to(tl.uint32, bitcast=True)


@triton.jit
def _powers(shift_ptr, shift_at, of_row, channels, taps, exists, GROUP_SIZE: tl.constexpr):
    """``2^shift`` of the last weights of words, and by how much it is larger for the first ones.

    A word's weights, those of four channels at all taps, lie in at most two groups. The third
    result tells these apart: for each channel the number of weights in the first group, up to 127,
    plus 128, in bytes.
    """
    before = channels * 4 * taps
    group = before // GROUP_SIZE
    one = tl.zeros_like(exists.to(tl.int32))
    other = one
    if shift_ptr is not None:  # noqa: SIM102
        if shift_at >= 0:
            shifts = shift_ptr + of_row
            one = tl.load(shifts + group, mask=exists, other=0).to(tl.int32)
            other = one
            if taps > 1:
                last = (before + 4 * taps - 1) // GROUP_SIZE
                other = tl.load(shifts + last, mask=exists, other=0).to(tl.int32)
    left = (group + 1) * GROUP_SIZE - before
    counts = tl.zeros_like(left).to(tl.uint32) + HALVES
    for byte in tl.static_range(4):
        count = tl.minimum(tl.maximum(left - byte * taps, 0), 127)
        counts += count.to(tl.uint32) << (8 * byte)
    power = (1 << other).to(tl.uint32)
    return power, (1 << one).to(tl.uint32) - power, counts


@triton.jit
def _centred(codes, zero, factor, factor_at):
    """``factor * (code - zero)`` of four codes in a word."""
    if factor_at >= 0:
        # The product of a byte begins in that byte and may extend into higher ones.
        value = (codes & 0xF) * (factor & 0xFF)
        value += (codes & 0xF00) * (factor >> 8 & 0xFF)
        value += (codes & 0xF0000) * (factor >> 16 & 0xFF)
        value += (codes & 0xF000000) * (factor >> 24)
        value -= zero * factor
    else:
        value = codes - zero * ONES
    return value


@triton.jit
def _shifted(value, power, more, counts):
    """The result of ``_centred`` times powers of two, as bytes."""
    firsts = counts & HALVES  # the highest bit of each byte in the first group
    in_first = ((value + HALVES) & ((firsts >> 7) * 255)) - firsts
    return (value * power + in_first * more + HALVES) ^ HALVES
