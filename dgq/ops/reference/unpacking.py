"""Weights of 4-bit codes as bytes, in plain torch."""

import torch
from torch import Tensor

from dgq.ops.packed_together import PackedTogether
from dgq.ops.packed_weight import PackedWeight, multiplied


def unpack(
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
    channels: int,
) -> Tensor:
    """A weight of 4-bit codes as bytes: int8 ``[out, taps, channels]``.

    Args:
        packed: codes, as in ``PackedWeight``, like the next four.
        channels: channels of the input.
    """
    weight = PackedWeight(packed, zero_point, factor, shift, group_size)
    return multiplied(weight, channels, 1).transpose(1, 2).contiguous()


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
    """``unpack`` of several layers, into common memory: int8 ``[n_bytes]``.

    Args:
        codes: codes of all layers, as in ``PackedTogether``, like all that follow.
        zero_point: zero points.
        factor: factors of input channels.
        shift: shifts of groups of inputs.
        layers: where each layer is.
        programs: the layer that each program of a kernel unpacks.
        group_size: inputs per group.
        n_bytes: bytes of the output.
    """
    packed = PackedTogether(codes, zero_point, factor, shift, layers, programs, group_size, n_bytes)
    output = codes.new_zeros(n_bytes, dtype=torch.int8)
    for offset, weight in packed.parts():
        whole = unpack(*weight, 2 * weight.codes.shape[2]).flatten()
        output[offset : offset + whole.numel()] = whole
    return output
