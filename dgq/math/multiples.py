"""Whole multiples: channels whose scales are whole numbers of a step's finest scale.

An integer product can take other factors than powers of two from the spare bits of its operands: a
code times a whole number ``a`` and a weight times a whole number ``b`` are whole numbers too. With
room for exponents up to ``K``, a channel's scale can be any product ``a b`` of the finest scale,
where ``a`` is at most ``2^A``, with ``A`` the bits that the codes leave free in u8 (at most ``K``),
and ``b`` at most ``2^(K - A)``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dgq.math.exponent_search import N_PHASES, least_error, relative_to_largest
from dgq.math.exponents import spare_activation_bits


def largest_factors(n_bits: int, max_exponent: int) -> tuple[int, int]:
    """The largest factors of an activation's codes and of the weights that they meet.

    Args:
        n_bits: bits of the activation's codes.
        max_exponent: room for both in bits, as for exponents.
    """
    on_codes = min(max_exponent, spare_activation_bits(n_bits))
    return 2**on_codes, 2 ** (max_exponent - on_codes)


def possible_multiples(n_bits: int, max_exponent: int) -> Tensor:
    """All products of both factors, ascending from 1 to ``2^max_exponent``: ``[n]``, int64."""
    on_codes, on_weights = (torch.arange(1, n + 1) for n in largest_factors(n_bits, max_exponent))
    products: Tensor = (on_codes[:, None] * on_weights).unique()
    return products


def shared_multiple(multiple: Tensor, n_bits: int, max_exponent: int) -> tuple[Tensor, Tensor]:
    """Split multiples into factors of both operands, with the largest possible factor on the codes.

    Args:
        multiple: ``[channels]``, of ``possible_multiples``.
        n_bits: bits of the activation's codes.
        max_exponent: as above.

    Returns:
        Factors of the codes and of the weights, both ``[channels]``, int64.
    """
    most_on_codes, _ = largest_factors(n_bits, max_exponent)
    factor = torch.arange(1, most_on_codes + 1, device=multiple.device)
    # The multiple is a product of two factors that fit: with a larger one on the codes, that on the
    # weights is smaller.
    on_codes = ((multiple[:, None] % factor == 0) * factor).amax(1)
    return on_codes, multiple // on_codes


def channel_multiples(width: Tensor, n_bits: int, max_exponent: int) -> Tensor:
    """One multiple for each channel, for all steps: the least that covers its range.

    As with exponents, the widest channel may need less than the largest multiple. Of the base
    scales within a factor of two, the one with the least sum of squared scales is chosen.

    Args:
        width: ``[steps, channels]``, not negative; the range of codes that each channel needs.
        n_bits: bits of the codes.
        max_exponent: as above.

    Returns:
        ``[channels]``, int16. Channels without any width get 1.
    """
    possible = possible_multiples(n_bits, max_exponent).to(width.device, width.dtype)
    relative = relative_to_largest(width)
    needed = relative.amax(0) * possible[-1]

    def error(multiple: Tensor) -> Tensor:
        base = (relative / multiple).amax(1)
        return base.square().sum() * multiple.square().sum()

    phases = (2 ** (i / N_PHASES) for i in range(N_PHASES))
    candidates = (possible[torch.searchsorted(possible, needed / base)] for base in phases)
    return least_error(candidates, error).to(torch.int16)


def finest_scale(width: Tensor, multiple: Tensor, n_bits: int) -> Tensor:
    """The least scale of multiple 1 in each step that covers all its channels: ``[steps]``.

    Args:
        width: ``[steps, channels]``.
        multiple: ``[channels]``.
        n_bits: bits of the codes.
    """
    scale = (width / multiple).amax(1) / (2**n_bits - 1)
    return torch.where(scale > 0, scale, torch.ones_like(scale)).clamp(
        min=torch.finfo(scale.dtype).tiny
    )


def of_weights(multiple: Tensor, shape: Sequence[int]) -> Tensor:
    """The multiple of the input channel of each weight: ``[1, n]``, or ``[out, n]``.

    Args:
        multiple: ``[channels]`` of the input.
        shape: of the weight, ``[out, channels / groups, ...]``; each output channel of a grouped
            convolution sees the inputs of its own group.
    """
    out, own_channels, *kernel = shape
    groups = len(multiple) // own_channels
    by_group = multiple.view(groups, -1).repeat_interleave(math.prod(kernel), 1)
    return by_group if groups == 1 else by_group.repeat_interleave(out // groups, 0)
