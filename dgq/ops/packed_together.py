"""Packed weights of several layers in common memory, unpacked by one launch.

The kernel finds each of them by its offsets. Addresses would not do: they are not known until a
graph runs.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from dgq.ops.packed_weight import PackedWeight

CHANNELS_AT_ONCE = 32
"""Channels of a weight that a thread unpacks: 16 bytes, the most that it loads at a time."""
WORD = 4
"""Codes that are unpacked at once, one in each byte of a word."""
ROWS, BYTES = 16, 64
"""Size of the block that a program unpacks at a time, within one tap."""
TIMES = 8
"""Number of blocks that a program unpacks, of different rows or taps."""
READ_ALIGNMENT, WRITTEN_ALIGNMENT = 16, 128
"""Alignment in bytes; the kernels that read what is written need the larger one."""


class Place(NamedTuple):
    """Where a layer is: a row of the table. Offsets are in bytes, -1 for a missing tensor.

    Args:
        codes: offset of its codes.
        output: offset of its unpacked weight.
        zero_point: offset of its zero points.
        factor: offset of its factors.
        shift: offset of its shifts.
        rows: output channels.
        taps: taps of the window.
        half: bytes of a row and tap: half of the channels.
        groups: number of shifts per row.
        first: the first program that unpacks it.
    """

    codes: int
    output: int
    zero_point: int
    factor: int
    shift: int
    rows: int
    taps: int
    half: int
    groups: int
    first: int


class PackedTogether(NamedTuple):
    """The arguments of ``dgq::unpack_all``.

    Args:
        codes: uint8, codes of all layers.
        zero_point: int8, zero points of all layers.
        factor: int8, factors of the layers that have some, or None.
        shift: uint8, shifts of the layers that have some, or None.
        layers: int32 ``[layers, 10]``, a ``Place`` for each layer.
        programs: int32, the layer that each program unpacks.
        group_size: inputs per group, the same for all layers with shifts.
        n_bytes: bytes of the output.
    """

    codes: Tensor
    zero_point: Tensor
    factor: Tensor | None
    shift: Tensor | None
    layers: Tensor
    programs: Tensor
    group_size: int
    n_bytes: int

    def parts(self) -> Iterator[tuple[int, PackedWeight]]:
        """For each layer, the offset of its unpacked weight and a view of its packed one."""
        for numbers in self.layers.tolist():
            at = Place(*numbers)
            factor, shift = self.factor, self.shift
            weight = PackedWeight(
                _view(self.codes, at.codes, (at.rows, at.taps, at.half)),
                _view(self.zero_point, at.zero_point, (at.rows,)),
                None if at.factor < 0 else _view(factor, at.factor, (2 * at.half,)),
                None if at.shift < 0 else _view(shift, at.shift, (at.rows, at.groups)),
                self.group_size,
            )
            yield at.output, weight


def can_be_together(weight: PackedWeight, channels: int, group_size: int) -> bool:
    """Whether the kernel for several layers can unpack a weight.

    Args:
        weight: packed weight of a product without groups of channels.
        channels: channels of its input.
        group_size: group size of the other layers.
    """
    if channels % CHANNELS_AT_ONCE:
        return False
    # At most two shifts apply to the channels of a word with all their taps.
    of_word = WORD * weight.codes.shape[1]
    return weight.shift is None or (weight.group_size == group_size and of_word <= group_size + 1)


def together(weights: Sequence[PackedWeight], group_size: int) -> PackedTogether:
    """Copy weights into common memory."""
    codes, at_codes = _joined([weight.codes for weight in weights])
    zero_point, at_zero_point = _joined([weight.zero_point for weight in weights])
    factor, at_factor = _joined([weight.factor for weight in weights])
    shift, at_shift = _joined([weight.shift for weight in weights])
    assert codes is not None
    assert zero_point is not None
    sizes = [2 * weight.codes.numel() for weight in weights]
    *at_output, n_bytes = accumulate((_rounded(n, WRITTEN_ALIGNMENT) for n in sizes), initial=0)
    counts = [n_programs(*weight.codes.shape) for weight in weights]
    firsts = accumulate(counts, initial=0)
    groups = [0 if weight.shift is None else weight.shift.shape[1] for weight in weights]
    shapes = [weight.codes.shape for weight in weights]
    offsets = zip(at_codes, at_output, at_zero_point, at_factor, at_shift, strict=True)
    rest = zip(shapes, groups, firsts, strict=False)
    places = [
        Place(*at, *shape, *others) for at, (shape, *others) in zip(offsets, rest, strict=True)
    ]
    number = torch.arange(len(weights), dtype=torch.int32)
    return PackedTogether(
        *(codes, zero_point, factor, shift),
        torch.tensor(places, dtype=torch.int32).to(codes.device),
        number.repeat_interleave(torch.tensor(counts)).to(codes.device),
        *(group_size, n_bytes),
    )


def n_programs(rows: int, taps: int, half: int) -> int:
    """Number of programs that unpack a layer."""
    return -(-rows // (ROWS * max(1, TIMES // taps))) * -(-half // BYTES)


def _joined(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, list[int]]:
    """The bytes of all tensors in one, and the offset of each, -1 for None."""
    sizes = [0 if t is None else _rounded(t.numel(), READ_ALIGNMENT) for t in tensors]
    *offsets, total = accumulate(sizes, initial=0)
    some = next((t for t in tensors if t is not None), None)
    places = [-1 if t is None else at for t, at in zip(tensors, offsets, strict=True)]
    if some is None:
        return None, places
    joined = some.new_zeros(total)
    for tensor, at in zip(tensors, places, strict=True):
        if tensor is not None:
            joined[at : at + tensor.numel()] = tensor.flatten()
    return joined, places


def _rounded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _view(joined: Tensor | None, at: int, shape: tuple[int, ...]) -> Tensor:
    assert joined is not None
    return joined[at : at + torch.Size(shape).numel()].view(shape)
