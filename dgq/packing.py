"""Weight codes as bytes: two codes of at most four bits share one."""

import torch
from torch import Tensor


def pack_codes(codes: Tensor, n_bits: int) -> Tensor:
    """Codes ``[out, n]`` of 0 to ``2^n_bits - 1`` as uint8: ``[out, ceil(n / 2)]`` up to 4 bits.

    The even position is the low half of a byte. Above 4 bits: ``[out, n]``.
    """
    codes = codes.to(torch.uint8)
    if n_bits > 4:
        return codes
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_codes(packed: Tensor, n_bits: int, n: int) -> Tensor:
    """Inverse of ``pack_codes``: uint8 codes ``[out, n]``."""
    if n_bits > 4:
        return packed
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1)
    return pairs.flatten(1)[:, :n]
