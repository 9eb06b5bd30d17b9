"""Weight codes packed into bytes without gaps: eight codes of ``b`` bits in ``b`` bytes."""

import torch
import torch.nn.functional as F
from torch import Tensor

TOGETHER = 8
"""Number of codes that fill whole bytes for any bits; they fit into one 64-bit word."""


def packed_width(n: int, n_bits: int) -> int:
    """Number of bytes of ``n`` codes."""
    return -(-n * n_bits // 8)


def pack_codes(codes: Tensor, n_bits: int) -> Tensor:
    """Codes ``[out, n]`` of 0 to ``2^n_bits - 1`` as uint8 ``[out, ceil(n n_bits / 8)]``.

    The first code is in the lowest bits of the first byte; bits after the last code are 0.
    """
    if n_bits == 8:
        return codes.to(torch.uint8)
    n = codes.shape[1]
    if n_bits == 4:  # by far the most frequent; words would take eight bytes for each code
        pairs = F.pad(codes.to(torch.uint8), (0, n % 2))
        return pairs[:, ::2] | pairs[:, 1::2] << 4
    padded = F.pad(codes.to(torch.uint8), (0, -n % TOGETHER)).unflatten(1, (-1, TOGETHER)).long()
    words = (padded << _places(TOGETHER, n_bits, codes)).sum(-1, keepdim=True)
    packed: Tensor = (words >> _places(n_bits, 8, codes)).bitwise_and_(255).to(torch.uint8)
    return packed.flatten(1)[:, : packed_width(n, n_bits)].contiguous()


def unpack_codes(packed: Tensor, n_bits: int, n: int) -> Tensor:
    """Inverse of ``pack_codes``: uint8 codes ``[out, n]``."""
    if n_bits == 8:
        return packed
    if n_bits == 4:
        pairs = torch.stack([packed & 15, packed >> 4], dim=-1)
        return pairs.flatten(1)[:, :n]
    padded = F.pad(packed, (0, -packed.shape[1] % n_bits)).unflatten(1, (-1, n_bits)).long()
    words = (padded << _places(n_bits, 8, packed)).sum(-1)
    mask = 2**n_bits - 1
    codes = [(words >> i * n_bits).bitwise_and_(mask).to(torch.uint8) for i in range(TOGETHER)]
    return torch.stack(codes, dim=-1).flatten(1)[:, :n]


def _places(n: int, n_bits: int, like: Tensor) -> Tensor:
    """Lowest bit of each of ``n`` parts of a word."""
    return torch.arange(n, device=like.device) * n_bits
