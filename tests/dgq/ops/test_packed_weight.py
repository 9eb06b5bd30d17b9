"""4-bit weights in the kernels' order, and the operators' references on them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq import ops
from dgq.math.packing import pack_codes
from dgq.ops.packed_weight import PackedWeight, multiplied, packed_for_kernels, stacked, unpacked


def random_codes(out: int, channels: int, taps: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (out, channels * taps), generator=generator).to(torch.uint8)


@given(out=st.integers(1, 5), channels=st.integers(1, 9), taps=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_codes_come_back_and_take_half_a_byte(out: int, channels: int, taps: int) -> None:
    codes = random_codes(out, channels, taps, channels)
    packed = packed_for_kernels(pack_codes(codes, 4), channels, taps)
    assert packed.shape == (out, taps, -(-channels // 2))
    zero = torch.zeros(out, dtype=torch.int8)
    back = unpacked(PackedWeight(packed, zero, None, None, 0), channels)
    assert torch.equal(back.flatten(1), codes)


def test_each_code_meets_its_own_factor_and_the_shift_of_its_group() -> None:
    out, channels, taps, groups, size = 4, 3, 4, 2, 5
    codes = random_codes(out, channels, taps, 0)
    zero = torch.tensor([8, 7, 8, 0], dtype=torch.int8)
    factor = torch.tensor([1, 2, 1, 3, 1, 1], dtype=torch.int8)
    shift = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.uint8)
    packed = packed_for_kernels(pack_codes(codes, 4), channels, taps)
    found = multiplied(PackedWeight(packed, zero, factor, shift, size), channels, groups).flatten(1)
    for o in range(out):
        for place in range(channels * taps):
            channel = place // taps + (channels if o >= out // groups else 0)
            value = int(codes[o, place]) - int(zero[o])
            expected = value * int(factor[channel]) * 2 ** int(shift[o, place // size])
            assert int(found[o, place]) == expected


@pytest.mark.parametrize("shifted", [(False, False), (True, True), (True, False), (False, True)])
def test_stacked_weights_are_those_they_were_made_of(shifted: tuple[bool, bool]) -> None:
    channels, size, outs = 7, 3, (4, 2)
    factor = torch.tensor([1, 2, 1, 3, 1, 1, 2], dtype=torch.int8)
    weights = []
    for seed, (out, has_shift) in enumerate(zip(outs, shifted, strict=True)):
        codes = random_codes(out, channels, 1, seed)
        packed = packed_for_kernels(pack_codes(codes, 4), channels, 1)
        shift = torch.randint(0, 2, (out, 3), dtype=torch.uint8) if has_shift else None
        # Without shifts there are no groups, whatever their size.
        weights.append(
            PackedWeight(
                packed, torch.full((out,), 7 + seed).char(), factor, shift, size if has_shift else 0
            )
        )
    joint = stacked(weights)
    assert joint is not None
    expected = [multiplied(weight, channels, 1) for weight in weights]
    assert torch.equal(multiplied(joint, channels, 1), torch.cat(expected))
    for rows, whole in zip((slice(0, 4), slice(4, 6)), expected, strict=True):
        part = joint.rows(rows)
        assert torch.equal(multiplied(part, channels, 1), whole)
        assert part.codes.untyped_storage().data_ptr() == joint.codes.untyped_storage().data_ptr()
    if all(shifted):
        assert stacked([weights[0], weights[1]._replace(group_size=4)]) is None


def test_operators_on_packed_weights_are_good_citizens() -> None:
    codes = torch.randint(-128, 128, (2, 6, 7, 5)).to(torch.int8)
    weight = packed_for_kernels(pack_codes(random_codes(4, 5, 9, 0), 4), 5, 9)
    zero, factor = torch.full((4,), 8, dtype=torch.int8), torch.ones(5, dtype=torch.int8)
    shift = torch.zeros(4, 3, dtype=torch.uint8)
    tables = (torch.rand(4), torch.rand(3), torch.randn(3, 4), torch.tensor([2, 0]))
    window = ([3, 3], [2, 1], [1, 1], 1)
    for given_ in ((factor, shift, 16), (None, None, 0)):
        arguments = (codes, weight, zero, *given_, *tables, *window, torch.float32)
        torch.library.opcheck(torch.ops.dgq.int_conv2d_packed.default, arguments)
    window = ([3, 3], [2, 1], [1, 0], [1, 1], 1)
    x, alone = torch.randn(2, 6, 7, 5), (weight, zero, shift, 16, tables[0], tables[2][0])
    torch.library.opcheck(torch.ops.dgq.conv2d_packed.default, (x, *alone, *window))


def test_a_weight_alone_is_that_of_a_stock_convolution() -> None:
    codes = random_codes(4, 5, 9, 1)
    packed = packed_for_kernels(pack_codes(codes, 4), 5, 9)
    zero, scale, bias = torch.full((4,), 8, dtype=torch.int8), torch.rand(4), torch.randn(4)
    kernels = ((codes.float() - 8) * scale[:, None]).view(4, 5, 3, 3)
    x = torch.randn(2, 5, 6, 6)
    expected = F.conv2d(x, kernels, bias, 2, 1)
    window = ([3, 3], [2, 2], [1, 1], [1, 1], 1)
    image = x.permute(0, 2, 3, 1)
    found = ops.conv2d_packed(image, packed, zero, None, 0, scale, bias, *window)
    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected)


def test_codes_of_bytes_with_and_without_a_sign_differ_by_their_offset() -> None:
    x = torch.randn(2, 3, 4, 5)
    tables = (torch.tensor([0.02]), torch.ones(5), torch.full((1, 5), 100, dtype=torch.int16))
    rest = (torch.ones(5), torch.zeros(1, dtype=torch.long), 255, [1, 1])
    plain, signed = (ops.quantize(x, *tables, *rest, offset) for offset in (None, 128))
    assert signed.dtype == torch.int8
    assert torch.equal(signed.int(), plain.int() - 128)
    arguments = (x, *tables, *rest, 128)
    torch.library.opcheck(torch.ops.dgq.quantize.default, arguments)
