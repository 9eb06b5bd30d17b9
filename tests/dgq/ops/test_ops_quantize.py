"""The fused quantization of inputs against its reference, bit for bit."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq import ops
from dgq.ops import reference
from tests.left_to_torch import compiled, is_left_to_torch


def arguments(
    shape: tuple[int, ...], n_steps: int, per_row: bool, n_bits: int, seed: int
) -> tuple[Any, ...]:
    """Everything but the padding, for an input of any shape ``[batch, ..., channels]``."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    channels, spare = shape[-1], 8 - n_bits
    return (
        torch.randn(shape, generator=generator) * 3,
        torch.rand(n_steps, generator=generator) + 0.01,
        whole(1, 9, channels).float(),
        whole(-40, 2**n_bits + 40, n_steps, channels).to(torch.int16),
        whole(1, 2**spare + 1, channels).float(),
        whole(0, n_steps, shape[0] if per_row else 1),
        2**n_bits - 1,
    )


shapes = st.one_of(
    st.tuples(*(st.integers(1, n) for n in (3, 5, 4, 37))),
    st.tuples(*(st.integers(1, n) for n in (3, 9, 37))),
    st.tuples(*(st.integers(1, n) for n in (3, 37))),
)


@compiled
def test_our_kernels_quantize() -> None:
    image = arguments((2, 4, 5, 8), 3, True, 8, 0)
    for padding in ([], [0, 0], [1, 2]):
        assert not is_left_to_torch(ops.quantize, *image, padding)
    assert not is_left_to_torch(ops.quantize.marking, *image, [], None, torch.zeros(2))
    x, *rest = arguments((2, 6, 8), 1, False, 8, 0)
    assert not is_left_to_torch(ops.quantize, x, *rest, [0, 0])
    assert not is_left_to_torch(ops.quantize_gated, torch.cat([x, x], -1), *rest)
    assert not is_left_to_torch(ops.channel_ranges, x)
    assert not is_left_to_torch(ops.quantize, x.half(), *rest, [])
    assert not is_left_to_torch(ops.quantize_gated, torch.cat([x, x], -1).half(), *rest)
    assert not is_left_to_torch(ops.channel_ranges, x.half())


@given(
    shape=shapes,
    n_steps=st.integers(1, 3),
    per_row=st.booleans(),
    n_bits=st.integers(2, 8),
    bfloat16=st.booleans(),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_compiled_codes_equal_the_reference_bit_for_bit(
    shape: tuple[int, ...],
    n_steps: int,
    per_row: bool,
    n_bits: int,
    bfloat16: bool,
    pads: tuple[int, int],
    seed: int,
) -> None:
    x, *rest = arguments(shape, n_steps, per_row, n_bits, seed)
    x = x.to(torch.bfloat16) if bfloat16 else x
    padding = list(pads) if x.ndim == 4 else []
    codes = ops.quantize(x, *rest, padding)
    assert torch.equal(codes, reference.quantize(x, *rest, padding))
    assert codes.dtype == torch.uint8


def test_codes_equal_the_formula_and_pixels_around_the_image_have_the_code_of_zero() -> None:
    x, scale, multiple, zero_point, factor, step, largest = arguments((2, 3, 4, 5), 2, True, 6, 0)
    zero_point = zero_point.clamp(0, largest)
    codes = ops.quantize(x, scale, multiple, zero_point, factor, step, largest, [1, 2])
    assert codes.shape == (2, 5, 8, 5)
    for sample, t in enumerate(step.tolist()):
        rounded = (x[sample] / (scale[t] * multiple)).round() + zero_point[t]
        inside = codes[sample, 1:-1, 2:-2]
        assert torch.equal(inside.float(), rounded.clamp(0, largest) * factor)
        zero = (zero_point[t] * factor).to(torch.uint8)
        assert torch.equal(codes[sample, 0], zero.expand(8, 5))
        assert torch.equal(codes[sample, :, 0], zero.expand(5, 5))


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e30, -1e30])
def test_values_far_outside_are_clamped(value: float) -> None:
    _, *rest = arguments((1, 1, 20), 1, False, 8, 0)
    x = torch.full((1, 1, 20), value)
    codes = ops.quantize(x, *rest, [])
    assert torch.equal(codes, reference.quantize(x, *rest, []))
    assert (codes == (255 if value > 0 else 0)).all()


def test_inputs_may_lie_in_memory_in_any_order() -> None:
    x, *rest = arguments((2, 4, 6, 8), 1, False, 8, 1)
    images = x.permute(0, 3, 1, 2).contiguous()  # channels first
    assert torch.equal(
        ops.quantize(images.permute(0, 2, 3, 1), *rest, [1, 1]), ops.quantize(x, *rest, [1, 1])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_without_a_compiler_and_in_other_types_values_are_the_same(dtype: torch.dtype) -> None:
    x, *rest = arguments((2, 3, 4, 20), 2, True, 8, 2)
    x = x.to(dtype)
    assert torch.equal(ops.quantize(x, *rest, [1, 1]), reference.quantize(x, *rest, [1, 1]))


def test_wide_zero_points_are_used_as_they_are() -> None:
    x, scale, multiple, _, factor, step, largest = arguments((1, 3, 4), 1, False, 8, 3)
    zero_point = torch.full((1, 4), -100_000, dtype=torch.int32)
    x = x + 100_128 * scale[0] * multiple
    rest = (scale, multiple, zero_point, factor, step, largest)
    codes = ops.quantize(x, *rest, [])
    assert torch.equal(codes, reference.quantize(x, *rest, []))
    assert 0 < codes.min() <= codes.max() < 255


@pytest.mark.parametrize("channels", [3, 5, 400])
def test_tables_of_other_sizes_are_an_error_and_never_read_beyond(channels: int) -> None:
    _, *rest = arguments((2, 3, 4), 1, False, 8, 0)
    with pytest.raises(RuntimeError):
        ops.quantize(torch.randn(2, 3, channels), *rest, [])


@given(
    shape=shapes,
    n_steps=st.integers(1, 3),
    per_row=st.booleans(),
    n_bits=st.integers(2, 8),
    bfloat16=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
def test_compiled_codes_of_gated_values_are_those_of_64_bits(
    shape: tuple[int, ...], n_steps: int, per_row: bool, n_bits: int, bfloat16: bool, seed: int
) -> None:
    _, *rest = arguments(shape, n_steps, per_row, n_bits, seed)
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(*shape[:-1], 2 * shape[-1], generator=generator)
    x = x.to(torch.bfloat16 if bfloat16 else torch.float32)
    found = ops.quantize_gated(x, *rest)
    value, gate = x.double().chunk(2, -1)
    gated = value * 0.5 * gate * (1 + torch.erf(gate / 2**0.5))
    # Where the quotient is not in the middle between two codes, both neighbours agree.
    finest = 1e-5 * (1 + gated.abs())
    low, high = (reference.quantize(gated + by, *rest, []) for by in (-finest, finest))
    assert found.shape == low.shape
    assert ((found == low) | (found == high)).all()
    assert (low == high).double().mean() > 0.5


def test_gates_far_outside_are_zero_or_one() -> None:
    value, gate = torch.full((1, 2, 4), 3.0), torch.tensor([-200.0, -30.0, 30.0, 200.0])
    x = torch.cat([value, gate.expand(1, 2, 4)], -1)
    ones = torch.ones(4)
    zeros = torch.zeros(1, 4, dtype=torch.int16)
    found = ops.quantize_gated(x, ones[:1] * 30, ones, zeros, ones, torch.zeros(1).long(), 255)
    assert found[0].tolist() == [[0, 0, 3, 20]] * 2


def test_quantizing_gated_values_is_a_good_citizen() -> None:
    _, *rest = arguments((2, 3, 5), 2, True, 6, 0)
    torch.library.opcheck(torch.ops.dgq.quantize_gated.default, (torch.randn(2, 3, 10), *rest))


@given(
    shape=shapes.filter(lambda shape: len(shape) == 4),
    n_steps=st.integers(1, 3),
    per_row=st.booleans(),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    offset=st.sampled_from([None, 128]),
)
@settings(max_examples=60, deadline=None)
def test_codes_may_be_padded_afterwards(
    shape: tuple[int, ...], n_steps: int, per_row: bool, pads: tuple[int, int], offset: int | None
) -> None:
    x, *rest = arguments(shape, n_steps, per_row, 7, 0)
    codes = reference.quantize(x, *rest, [], offset)
    _, _, *around = rest  # zero points and what follows
    expected = reference.quantize(x, *rest, list(pads), offset)
    assert torch.equal(ops.pad(codes, *around, list(pads), offset), expected)


def test_padding_is_a_good_citizen() -> None:
    codes = torch.randint(0, 255, (2, 3, 4, 5)).to(torch.uint8)
    _, _, _, *around = arguments((2, 3, 4, 5), 2, True, 6, 0)
    torch.library.opcheck(torch.ops.dgq.pad.default, (codes, *around, [1, 2]))


@pytest.mark.parametrize("padding", [[], [1, 2]])
def test_the_operator_is_a_good_citizen(padding: list[int]) -> None:
    given = arguments((2, 3, 4, 5), 2, True, 6, 0)
    torch.library.opcheck(torch.ops.dgq.quantize.default, (*given, padding))


@given(shape=shapes, bfloat16=st.booleans(), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_compiled_ranges_equal_the_reference_bit_for_bit(
    shape: tuple[int, ...], bfloat16: bool, seed: int
) -> None:
    shape = shape if len(shape) > 2 else (shape[0], 1, shape[1])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x = x.to(torch.bfloat16) if bfloat16 else x
    found, expected = ops.channel_ranges(x), reference.channel_ranges(x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert found[0].shape == (shape[0], shape[-1])


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (1, 8)])
def test_the_range_of_a_channel_with_a_nan_is_nan(place: tuple[int, int]) -> None:
    x = torch.randn(2, 9, 70)
    x[place][:3] = torch.nan
    x[1, 5, 20] = torch.inf
    found, expected = ops.channel_ranges(x), reference.channel_ranges(x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("kernel", ["quantize", "quantize_gated"])
@given(shape=shapes, place=st.integers(0, 2**16), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_samples_with_a_nan_are_noted(
    kernel: str, bfloat16: bool, shape: tuple[int, ...], place: int, seed: int
) -> None:
    """One sample has a NaN, one an infinity, whose code is the largest."""
    x, *tables, largest = arguments((3, *shape[1:]), 2, True, 8, seed)
    if kernel == "quantize_gated":
        x = torch.cat([x, x], -1)
    x = x.bfloat16() if bfloat16 else x
    x[0].view(-1)[place % x[0].numel()] = torch.nan
    x[2].view(-1)[place % x[2].numel()] = torch.inf if kernel == "quantize" else 0
    padding = {"padding": [1, 1] if x.ndim == 4 else []} if kernel == "quantize" else {}
    for function in (getattr(ops, kernel).marking, getattr(reference, kernel)):
        spoilt = torch.zeros(3)
        function(x, *tables, largest, **padding, spoilt=spoilt)
        assert spoilt.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("kernel", ["quantize", "quantize_gated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1, 2])
def test_samples_are_noted_in_any_tensor(distance: int, dtype: torch.dtype, kernel: str) -> None:
    spoilt = torch.zeros(3 * distance, dtype=dtype)[::distance]
    x, *tables, largest = arguments((3, 2, 8), 1, False, 8, 0)
    x[1] = torch.nan
    padding = [[]] if kernel == "quantize" else []
    x = x if kernel == "quantize" else torch.cat([x, x], -1)
    getattr(ops, kernel).marking(x, *tables, largest, *padding, None, spoilt)
    assert spoilt.isnan().tolist() == [False, True, False]


@compiled
@pytest.mark.parametrize("padding", [[0], [0, 0, 0], [1], [-1, 0], [0, -1], [2**62, 0]])
@pytest.mark.parametrize("shape", [(2, 4, 5, 8), (2, 6, 8)], ids=["image", "tokens"])
def test_other_padding_is_left_to_torch(shape: tuple[int, ...], padding: list[int]) -> None:
    assert is_left_to_torch(ops.quantize, *arguments(shape, 1, False, 8, 0), padding)


def test_padding_with_zero_points_that_all_steps_share() -> None:
    generator = torch.Generator().manual_seed(1)
    x, step = torch.randn(2, 3, 4, 5, generator=generator), torch.tensor([2, 1])
    zeros = torch.randint(0, 64, (1, 5), generator=generator).to(torch.int16)
    factor = torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0])
    tables = (torch.tensor([0.03]), torch.ones(5), zeros, factor, step)
    codes = reference.quantize(x, *tables, 63, [])
    found = reference.pad(codes, zeros, factor, step, 63, [1, 2])
    assert torch.equal(found, reference.quantize(x, *tables, 63, [1, 2]))
    assert torch.equal(found[1, 0, 0], (zeros[0] * factor).byte())
