"""4-bit weights back to whole numbers: in registers, as a tensor, or many as one tensor."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgq.ops.packed_weight import PackedWeight
from dgq.ops.triton.launch import KEPT, Launch

ROWS, BYTES = 32, 64
"""That one program unpacks, of one tap."""


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
    TAPS,
    GROUP_SIZE: tl.constexpr,
):
    """``factor * 2^shift * (code - zero)`` as int8, of codes ``[rows, places]``.

    ``channel`` and ``tap`` are those of each place, ``known`` is where there is one; ``factor_ptr``
    begins at the first channel of the convolution's group.
    """
    # In words of 32 bits: bytes would be moved into and out of them at every operation.
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
    """The weight ``[out, taps, channels]``: whole numbers, or times ``scale [out]``.

    Args:
        weight: packed.
        channels: of one group of the convolution.
        groups: of the convolution.
        scale: of each output channel; None for whole numbers.
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
    """The launch of ``_expand``, of packed codes of a shape."""
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
    weight = PackedWeight(packed, zero_point, factor, shift, group_size)
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
    low = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    if factor_ptr is not None:
        factor_ptr += group * channels
    _expand_block(
        codes_ptr,
        zero_ptr,
        factor_ptr,
        shift_ptr,
        scale_ptr,
        out_ptr,
        row,
        exists,
        tl.program_id(1),
        low,
        channels,
        half,
        n_shifts,
        TAPS,
        GROUP_SIZE,
    )


@triton.jit
def _expand_block(
    codes_ptr,
    zero_ptr,
    factor_ptr,
    shift_ptr,
    scale_ptr,
    out_ptr,
    row,
    exists,
    tap,
    low,
    channels,
    half,
    n_shifts,
    TAPS,
    GROUP_SIZE: tl.constexpr,
):
    """Unpack bytes ``low`` of a tap of some rows, those that exist."""
    known = low < half
    bytes_at = codes_ptr + row[:, None] * (TAPS * half) + (tap * half + low)[None, :]
    byte = tl.load(bytes_at, mask=known[None, :], other=0).to(tl.int32)
    zero = tl.load(zero_ptr + row)
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


class Job(NamedTuple):
    """A weight to unpack, as ``_expand_all`` reads it: addresses, sizes, where it begins."""

    codes: int
    zero_point: int
    factor: int
    shift: int
    rows: int
    taps: int
    channels: int
    n_shifts: int
    first_program: int
    offset: int

    @property
    def programs(self) -> int:
        """That unpack it."""
        return self.taps * -(-self.rows // ROWS) * -(-self.half // BYTES)

    @property
    def half(self) -> int:
        """Bytes of a tap."""
        return -(-self.channels // 2)

    @property
    def is_aligned(self) -> bool:
        """Whether what is read and written lies at multiples of 16 bytes."""
        return not (self.channels % WIDE or self.codes % 16 or self.factor % 16)

    def following(self, other: "Job") -> "Job":
        """The same behind another one."""
        size = other.rows * other.taps * other.channels
        first = other.first_program + other.programs
        return self._replace(first_program=first, offset=other.offset + size)


SIZE_OF_JOB = tl.constexpr(len(Job._fields))
WIDE = 32
"""Inputs of which weights have a multiple where boundaries of 16 bytes are used."""


def unpack_all(
    packed: list[Tensor],
    zero_point: list[Tensor],
    factor: list[Tensor | None],
    shift: list[Tensor | None],
    group_size: int,
    channels: list[int],
) -> Tensor:
    """As ``reference.unpack_all``, in one launch."""
    jobs: list[Job] = []
    for codes, zero, multiple, exponent, n in zip(
        packed, zero_point, factor, shift, channels, strict=True
    ):
        addresses = (address(codes), address(zero), address(multiple), address(exponent))
        n_shifts = 0 if exponent is None else exponent.shape[1]
        job = Job(*addresses, codes.shape[0], codes.shape[1], n, n_shifts, 0, 0)
        jobs.append(job.following(jobs[-1]) if jobs else job)
    end = jobs[-1].following(jobs[-1])
    output = packed[0].new_empty((end.offset,), dtype=torch.int8)
    table, job_of_program = tables(tuple(jobs), packed[0].device)
    _expand_all[(end.first_program,)](
        *(table, job_of_program, output),
        HAS_FACTOR=factor[0] is not None,
        HAS_SHIFT=shift[0] is not None,
        GROUP_SIZE=group_size,
        ALIGNMENT=16 if all(job.is_aligned for job in jobs) else 1,
        BLOCK_N=ROWS,
        BLOCK_K=BYTES,
    )
    return output


def address(tensor: Tensor | None) -> int:
    """Of a tensor's first element; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


@lru_cache(KEPT)
def tables(jobs: Sequence[Job], device: torch.device) -> tuple[Tensor, Tensor]:
    """The jobs, int64 ``[jobs, fields]``, and which of them each program works on, int32."""
    counts = torch.tensor([job.programs for job in jobs])
    job_of_program = torch.arange(len(jobs), dtype=torch.int32).repeat_interleave(counts)
    return torch.tensor(jobs).to(device), job_of_program.to(device)


@triton.jit
def _expand_all(
    jobs_ptr,
    job_of_program_ptr,
    out_ptr,
    HAS_FACTOR: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    job = jobs_ptr + tl.load(job_of_program_ptr + tl.program_id(0)) * SIZE_OF_JOB
    codes_ptr = tl.multiple_of(tl.load(job).to(tl.pointer_type(tl.uint8)), ALIGNMENT)
    zero_ptr = tl.load(job + 1).to(tl.pointer_type(tl.int8))
    factor_ptr = None
    if HAS_FACTOR:
        factor_ptr = tl.multiple_of(tl.load(job + 2).to(tl.pointer_type(tl.int8)), ALIGNMENT)
    shift_ptr = None
    if HAS_SHIFT:
        shift_ptr = tl.load(job + 3).to(tl.pointer_type(tl.uint8))
    rows = tl.load(job + 4).to(tl.int32)
    taps = tl.load(job + 5).to(tl.int32)
    channels = tl.load(job + 6).to(tl.int32)
    n_shifts = tl.load(job + 7).to(tl.int32)
    place = tl.program_id(0) - tl.load(job + 8).to(tl.int32)
    out_ptr += tl.multiple_of(tl.load(job + 9), ALIGNMENT)
    half = tl.multiple_of((channels + 1) // 2, ALIGNMENT)
    channels = tl.multiple_of(channels, ALIGNMENT)

    row_blocks, byte_blocks = tl.cdiv(rows, BLOCK_N), tl.cdiv(half, BLOCK_K)
    row = place // byte_blocks % row_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    low = place % byte_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    tap = place // (byte_blocks * row_blocks)
    exists = row < rows
    row = tl.minimum(row, rows - 1)
    _expand_block(
        codes_ptr,
        zero_ptr,
        factor_ptr,
        shift_ptr,
        None,
        out_ptr,
        row,
        exists,
        tap,
        low,
        channels,
        half,
        n_shifts,
        taps,
        GROUP_SIZE,
    )
