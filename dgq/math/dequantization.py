"""Dequantization of packed weights, in blocks of rows that stay in the cache."""

import torch
from torch import Tensor

from dgq.math.cached_rows import cached_rows
from dgq.math.exponents import fraction
from dgq.math.packing import unpack_codes


def input_factors(exponent: Tensor, group_size: int, n_inputs: int) -> Tensor:
    """``2^-exponent`` of every weight, from the exponents of its groups; exact.

    Args:
        exponent: ``[out, groups]``.
        group_size: inputs in a group; the last one may have fewer.
        n_inputs: weights of an output channel.

    Returns:
        ``[out, n_inputs]``.
    """
    factors = fraction(exponent)
    if exponent.shape[1] * group_size == n_inputs:
        return factors.repeat_interleave(group_size, 1)
    # Slower than repeating and slicing, which Inductor (torch 2.13) compiles to wrong values.
    groups = torch.arange(n_inputs, device=exponent.device) // group_size
    return factors.index_select(1, groups)


def dequantize(
    packed: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    n_bits: int,
    n_inputs: int,
    exponent: Tensor | None = None,
    group_size: int = 0,
    absorbed: Tensor | None = None,
) -> Tensor:
    """``scale * 2^-exponent * (code - zero_point) / absorbed`` as ``[out, n_inputs]``.

    Args:
        packed: codes as ``pack_codes`` returned them.
        scale: ``[out]``.
        zero_point: ``[out]``.
        n_bits: bits of the codes.
        n_inputs: weights of an output channel.
        exponent: ``[out, groups]``; ``None`` for none.
        group_size: inputs in a group.
        absorbed: multiples that the weights absorbed, ``[1 or out, n_inputs]``; ``None`` for none.
    """
    weight = scale.new_empty(len(packed), n_inputs)
    n_rows = cached_rows(len(packed), n_inputs, packed.device)
    for start in range(0, len(packed), n_rows):
        rows = slice(start, start + n_rows)
        block = weight[rows]
        codes = unpack_codes(packed[rows], n_bits, n_inputs)
        torch.sub(codes, zero_point[rows, None], out=block)
        block.mul_(scale[rows, None])
        if exponent is not None:
            block.mul_(input_factors(exponent[rows], group_size, n_inputs))
        if absorbed is not None:
            block.div_(absorbed[rows] if len(absorbed) > 1 else absorbed)
    return weight
