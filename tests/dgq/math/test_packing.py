"""Packed codes come back, in as few bytes as promised, and old files keep their meaning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.math.packing import pack_codes, packed_width, unpack_codes


@settings(max_examples=150, deadline=None)
@given(n_bits=st.integers(2, 8), rows=st.integers(1, 5), n=st.integers(1, 40), seed=st.integers(0))
def test_unpacking_is_the_inverse_of_packing(n_bits: int, rows: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    codes = torch.randint(0, 2**n_bits, (rows, n), generator=generator)
    packed = pack_codes(codes.float(), n_bits)
    unpacked = unpack_codes(packed, n_bits, n)
    assert packed.dtype == unpacked.dtype == torch.uint8
    assert packed.shape == (rows, packed_width(n, n_bits))
    assert torch.equal(unpacked.long(), codes)


@pytest.mark.parametrize("n_bits", range(2, 9))
def test_codes_take_their_bits_and_no_more(n_bits: int) -> None:
    """A thousand codes of ``b`` bits are ``1000 b / 8`` bytes, rounded up."""
    assert pack_codes(torch.ones(2, 1000), n_bits).shape == (2, 125 * n_bits)
    assert packed_width(3, n_bits) == (3 * n_bits + 7) // 8


@pytest.mark.parametrize("n_bits", range(2, 9))
def test_bits_follow_each_other_from_the_lowest(n_bits: int) -> None:
    """The bytes of a row are the number ``sum code[i] 2^(b i)``, little end first."""
    codes = torch.randint(0, 2**n_bits, (1, 13), generator=torch.Generator().manual_seed(0))
    number = sum(int(code) << n_bits * i for i, code in enumerate(codes[0]))
    expected = number.to_bytes(packed_width(13, n_bits), "little")
    assert bytes(pack_codes(codes, n_bits)[0].tolist()) == expected


def test_four_bits_are_as_in_earlier_files() -> None:
    """The even position is the low half of a byte."""
    assert pack_codes(torch.tensor([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]
