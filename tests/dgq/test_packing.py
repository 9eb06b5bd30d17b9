"""Packed codes come back, in as few bytes as promised."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.packing import pack_codes, unpack_codes


@settings(max_examples=60, deadline=None)
@given(n_bits=st.integers(2, 8), rows=st.integers(1, 5), n=st.integers(1, 9), seed=st.integers(0))
def test_unpacking_is_the_inverse_of_packing(n_bits: int, rows: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    codes = torch.randint(0, 2**n_bits, (rows, n), generator=generator)
    unpacked = unpack_codes(pack_codes(codes.float(), n_bits), n_bits, n)
    assert torch.equal(unpacked.long(), codes)


@pytest.mark.parametrize(("n_bits", "n", "n_bytes"), [(4, 6, 3), (3, 7, 4), (5, 7, 7), (8, 1, 1)])
def test_codes_of_four_bits_share_a_byte(n_bits: int, n: int, n_bytes: int) -> None:
    packed = pack_codes(torch.ones(2, n), n_bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, n_bytes)


def test_the_even_position_is_the_low_half() -> None:
    assert pack_codes(torch.tensor([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]
