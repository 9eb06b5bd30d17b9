"""4-bit weights as kernels read them: two codes per byte, in the order of multiplication.

A kernel multiplies tap by tap of the window, and within a tap channel by channel. The low nibble of
a byte is a channel of the first half, the high nibble the same channel of the second half: both
halves are then contiguous in the input, and nothing has to be interleaved.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dgq.math.packing import unpack_codes


class PackedWeight(NamedTuple):
    """A weight ``factor[c] * 2^shift[o, g] * (code - zero_point[o])``, integers within s8.

    Args:
        codes: uint8 ``[out, taps, ceil(channels / 2)]``; channels are those of one group.
        zero_point: int8 ``[out]``.
        factor: int8 ``[in]``, of all input channels, or None for 1.
        shift: uint8 ``[out, groups]`` of groups of inputs, or None for 0.
        group_size: inputs in a group, along ``channels, height, width``; 0 without groups.
    """

    codes: Tensor
    zero_point: Tensor
    factor: Tensor | None
    shift: Tensor | None
    group_size: int

    def contiguous(self) -> "PackedWeight":
        """The same weight as kernels can read it: without gaps."""
        return self._replace(
            codes=self.codes.contiguous(),
            zero_point=self.zero_point.contiguous(),
            factor=None if self.factor is None else self.factor.contiguous(),
            shift=None if self.shift is None else self.shift.contiguous(),
        )

    def rows(self, rows: slice) -> "PackedWeight":
        """A view of some output channels."""
        shift = None if self.shift is None else self.shift[rows]
        return self._replace(codes=self.codes[rows], zero_point=self.zero_point[rows], shift=shift)


def stacked(weights: Sequence[PackedWeight]) -> PackedWeight | None:
    """Weights of the same inputs, stacked; None if their groups differ.

    Weights without shifts get shifts of 0 if others have some.

    Args:
        weights: packed weights with the same factors of input channels.
    """
    sizes = {weight.group_size for weight in weights if weight.shift is not None}
    if len(sizes) > 1:
        return None
    return PackedWeight(
        torch.cat([weight.codes for weight in weights]),
        torch.cat([weight.zero_point for weight in weights]),
        weights[0].factor,
        _stacked_shifts(weights) if sizes else None,
        sizes.pop() if sizes else weights[0].group_size,
    )


def _stacked_shifts(weights: Sequence[PackedWeight]) -> Tensor:
    """Shifts of all weights, at least one of which has shifts."""
    some = next(weight.shift for weight in weights if weight.shift is not None)
    none = [some.new_zeros(weight.codes.shape[0], some.shape[1]) for weight in weights]
    shifts = [weight.shift for weight in weights]
    return torch.cat([b if a is None else a for a, b in zip(shifts, none, strict=True)])


def packed_for_kernels(codes: Tensor, channels: int, taps: int, n_bits: int = 4) -> Tensor:
    """Codes ``[out, bytes]`` of ``pack_codes``, of at most 4 bits, in the kernels' order."""
    single = unpack_codes(codes, n_bits, channels * taps).view(-1, channels, taps).transpose(1, 2)
    half = -(-channels // 2)
    low, high = single[..., :half], F.pad(single[..., half:], (0, channels % 2))
    return (low | (high << 4)).contiguous()


def unpacked(weight: PackedWeight, channels: int) -> Tensor:
    """The codes ``[out, channels, taps]``, uint8."""
    both = torch.cat([weight.codes & 15, weight.codes >> 4], -1)
    return both[..., :channels].transpose(1, 2)


def multiplied(weight: PackedWeight, channels: int, groups: int) -> Tensor:
    """The weight as int8 ``[out, channels, taps]``.

    Args:
        weight: packed.
        channels: channels of one group of the convolution.
        groups: groups of the convolution.
    """
    value = unpacked(weight, channels).to(torch.int32) - weight.zero_point[:, None, None]
    if weight.factor is not None:
        by_group = weight.factor.view(groups, 1, channels, 1)
        value = (value.view(groups, -1, *value.shape[1:]) * by_group).flatten(0, 1)
    if weight.shift is not None:
        flat = value.flatten(1)
        each = weight.shift.repeat_interleave(weight.group_size, 1)[:, : flat.shape[1]]
        value = (flat << each.to(torch.int32)).view_as(value)
    return value.to(torch.int8)
