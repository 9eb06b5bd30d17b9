"""Triton's kernels against whole numbers of 64 bits, and against the references."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.math.packing import pack_codes
from dgq.ops import gpu, reference, triton
from dgq.ops.packed_weight import PackedWeight, multiplied, packed_for_kernels
from tests.triton_kernels import DEVICE, SMALL

SIGNED = (-128, 127)


class Draw:
    """Random tensors of one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def whole(self, low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high + 1, size, generator=self._generator)

    def bytes(self, *size: int) -> Tensor:
        return self.whole(*SIGNED, *size).to(torch.int8)

    def real(self, *size: int) -> Tensor:
        return torch.randn(size, generator=self._generator)

    def epilogue(self, out: int, batch: int, n_steps: int, per_row: bool) -> tuple[Tensor, ...]:
        """Scales of the weight and of the activations, biases, and steps."""
        scales = [self.real(n).abs() + 0.1 for n in (out, n_steps)]
        step = self.whole(0, n_steps - 1, batch if per_row else 1)
        return *scales, self.real(n_steps, out), step


def here(*tensors: Any) -> tuple[Any, ...]:
    return tuple(t.to(DEVICE) if isinstance(t, Tensor) else t for t in tensors)


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest value."""
    assert found.shape == expected.shape
    error = (found.cpu().double() - expected.double()).abs().amax()
    assert float(error) <= tolerance * max(1e-3, float(expected.double().abs().amax()))


# Quantization


@given(
    shape=st.one_of(
        st.tuples(*(st.integers(1, n) for n in (3, 4, 3, 140))),
        st.tuples(*(st.integers(1, n) for n in (3, 9, 20))),
        st.tuples(*(st.integers(1, n) for n in (3, 20))),
    ),
    n_steps=st.integers(1, 3),
    per_row=st.booleans(),
    n_bits=st.integers(2, 8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    offset=st.sampled_from([None, 128]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_codes_equal_the_reference_bit_for_bit(
    shape: tuple[int, ...],
    n_steps: int,
    per_row: bool,
    n_bits: int,
    dtype: torch.dtype,
    pads: tuple[int, int],
    offset: int | None,
    seed: int,
) -> None:
    draw, channels = Draw(seed), shape[-1]
    scale = draw.real(n_steps).abs() + 0.01
    # Many quotients lie in the middle between two codes.
    x = (draw.whole(-300, 300, *shape) / 2 * scale[0]).to(dtype)
    given_ = (
        *(x, scale, draw.whole(1, 9, channels).float()),
        draw.whole(-40, 2**n_bits + 40, n_steps, channels).to(torch.int16),
        draw.whole(1, 2 ** (8 - n_bits), channels).float(),
        draw.whole(0, n_steps - 1, shape[0] if per_row else 1),
        *(2**n_bits - 1, list(pads) if len(shape) == 4 else [], offset),
    )
    found = triton.quantize(*here(*given_))
    assert torch.equal(found.cpu(), reference.quantize(*given_))
    assert found.dtype == (torch.int8 if offset else torch.uint8)


@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 4, 3, 140))),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    n_steps=st.integers(1, 3),
    per_row=st.booleans(),
    offset=st.sampled_from([None, 0, 128]),
)
@settings(max_examples=30, deadline=None)
def test_padding_equals_the_reference(
    shape: tuple[int, ...], pads: tuple[int, int], n_steps: int, per_row: bool, offset: int | None
) -> None:
    draw, channels = Draw(0), shape[-1]
    codes = draw.bytes(*shape)
    given_ = (
        codes.view(torch.uint8) if offset is None else codes,
        draw.whole(-40, 127 + 40, n_steps, channels).to(torch.int16),
        draw.whole(1, 2, channels).float(),
        draw.whole(0, n_steps - 1, shape[0] if per_row else 1),
        *(127, list(pads), offset),
    )
    found = triton.pad(*here(*given_))
    assert torch.equal(found.cpu(), reference.pad(*given_))
    assert found.dtype == given_[0].dtype


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e30, -1e30, 3e6, -3e6])
def test_values_far_outside_are_clamped(value: float) -> None:
    x, ones = torch.full((1, 2, 5), value), torch.ones(5)
    zero_point = torch.tensor([[0, 1, 255, 32767, -32768]]).to(torch.int16)
    rest = (torch.ones(1), ones, zero_point, ones, torch.zeros(1).long(), 255, [], 128)
    found = triton.quantize(*here(x, *rest))
    assert (found == (127 if value > 0 else -128)).all()


def test_zero_points_of_more_bits_are_left_to_the_reference() -> None:
    x, ones = torch.tensor([[[100_050.0]]]), torch.ones(1)
    rest = (ones, ones, torch.tensor([[-100_000]]), ones, torch.zeros(1).long(), 255, [])
    assert triton.quantize(*here(x, *rest)).item() == 50


# Products of bytes

windows = st.fixed_dictionaries(
    {
        "groups": st.integers(1, 2),
        "inputs": st.integers(1, 37),
        "outputs": st.integers(1, 35),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 2)),
        "stride": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "size": st.tuples(st.integers(5, 7), st.integers(5, 7)),
        "batch": st.integers(1, 2),
        "seed": st.integers(0, 2**16),
    }
)


def case(window: dict[str, Any]) -> tuple[Draw, Tensor, tuple[int, ...], tuple[Any, ...]]:
    """Draw, codes, shape of the weight, and geometry of a drawn convolution."""
    draw, groups = Draw(window["seed"]), window["groups"]
    codes = draw.bytes(window["batch"], *window["size"], groups * window["inputs"])
    weight = (groups * window["outputs"], window["inputs"], *window["kernel"])
    shape = [list(window[name]) for name in ("kernel", "stride", "dilation")]
    return draw, codes, weight, (*shape, groups)


def sums_of(codes: Tensor, weight: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """Of a convolution, int64 ``[batch, height, width, out]``."""
    _, stride, dilation, groups = shape
    planes = codes.permute(0, 3, 1, 2).long()
    return F.conv2d(planes, weight.long(), None, stride, 0, dilation, groups).permute(0, 2, 3, 1)


def units(out: int) -> tuple[Tensor, ...]:
    return torch.ones(out), torch.ones(1), torch.zeros(1, out), torch.zeros(1).long()


@given(window=windows, parts=st.integers(1, 3))
@settings(max_examples=16, deadline=None)
def test_accumulators_of_convolutions_equal_64_bit_sums(window: dict[str, Any], parts: int) -> None:
    draw, codes, of_weight, shape = case(window)
    weight = draw.bytes(*of_weight)
    tile = triton.Tile(32, 32, 32, parts)
    given_ = (codes, weight, *units(of_weight[0]), *shape, torch.float32)
    found = triton.int_conv2d(*here(*given_), tile=tile)
    assert torch.equal(found.cpu().long(), sums_of(codes, weight, shape))
    assert found.is_contiguous()


@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 30),
    channels=st.integers(1, 150),
    out=st.integers(1, 70),
    parts=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=12, deadline=None)
def test_accumulators_of_linear_layers_equal_64_bit_sums(
    batch: int, tokens: int, channels: int, out: int, parts: int, seed: int
) -> None:
    draw = Draw(seed)
    codes, weight = draw.bytes(batch, tokens, channels), draw.bytes(out, channels)
    given_ = (codes, weight, *units(out), torch.float32)
    found = triton.int_linear(*here(*given_), tile=triton.Tile(64, 32, 64, parts))
    assert torch.equal(found.cpu().long(), codes.long() @ weight.long().t())


def test_the_largest_products_do_not_saturate() -> None:
    codes = torch.full((1, 2, 1024), -128, dtype=torch.int8)
    weight = codes[0, 0].expand(16, -1)
    found = triton.int_linear(*here(codes, weight, *units(16), torch.float32), tile=SMALL)
    assert (found == 2**14 * 1024).all()


@given(window=windows, per_row=st.booleans(), parts=st.integers(1, 2), n_steps=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_each_sample_is_scaled_at_its_own_step(
    window: dict[str, Any], per_row: bool, parts: int, n_steps: int
) -> None:
    draw, codes, of_weight, shape = case(window)
    tables = draw.epilogue(of_weight[0], codes.shape[0], n_steps, per_row)
    given_ = (codes, draw.bytes(*of_weight), *tables, *shape)
    found = triton.int_conv2d(*here(*given_), torch.float32, tile=triton.Tile(32, 32, 32, parts))
    assert_near(found, reference.int_conv2d(*given_, torch.float32), 1e-6)


@given(window=windows, parts=st.integers(1, 2), packs=st.booleans())
@settings(max_examples=8, deadline=None)
def test_a_residual_is_added_before_rounding(
    window: dict[str, Any], parts: int, packs: bool
) -> None:
    draw, codes, of_weight, shape = case(window)
    tables, tile = draw.epilogue(of_weight[0], codes.shape[0], 1, False), triton.Tile(32, 32, 32)
    weight = packed(draw, of_weight, shape[-1], False, 0) if packs else (draw.bytes(*of_weight),)
    name = "int_conv2d_packed" if packs else "int_conv2d"
    given_ = (codes, *weight, *tables, *shape, torch.float32)
    residual = 50 * draw.real(*getattr(reference, name)(*given_).shape)
    found = getattr(triton, name)(*here(*given_, residual), tile=replace(tile, parts=parts))
    assert_near(found, getattr(reference, name)(*given_, residual), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_outputs_may_have_16_bits(dtype: torch.dtype) -> None:
    draw = Draw(0)
    given_ = (draw.bytes(2, 5, 40), draw.bytes(9, 40), *draw.epilogue(9, 2, 3, True))
    tables = (given_[2] / 1000, *given_[3:])  # float16 ends at 65504
    given_ = (*given_[:2], *tables)
    found = triton.int_linear(*here(*given_), dtype, tile=SMALL)
    assert found.dtype == dtype
    # Triton's interpreter cuts bfloat16 off where a GPU rounds.
    assert_near(found.float(), reference.int_linear(*given_, torch.float32), 2**-7)


def test_inputs_of_two_dimensions_and_empty_ones_keep_their_shape() -> None:
    draw = Draw(1)
    weight, tables = draw.bytes(9, 40), draw.epilogue(9, 3, 2, True)
    codes = draw.bytes(3, 40)
    found = triton.int_linear(*here(codes, weight, *tables, torch.float32), tile=SMALL)
    assert_near(found, reference.int_linear(codes, weight, *tables, torch.float32), 1e-6)
    none = draw.bytes(3, 0, 40)
    assert triton.int_linear(*here(none, weight, *tables, torch.float32), tile=SMALL).shape == (
        3,
        0,
        9,
    )


def test_codes_without_a_sign_are_left_to_the_reference() -> None:
    draw = Draw(2)
    codes, weight = draw.whole(0, 255, 2, 3, 7).to(torch.uint8), draw.bytes(4, 7)
    found = triton.int_linear(*here(codes, weight, *units(4), torch.float32), tile=SMALL)
    assert torch.equal(found.cpu().long(), codes.long() @ weight.long().t())
    images = codes[:, :, None]
    shape = ([1, 1], [1, 1], [1, 1], 1)
    given_ = (images, weight[..., None, None], *units(4), *shape, torch.float32)
    assert torch.equal(triton.int_conv2d(*here(*given_), tile=SMALL)[:, :, 0], found)


# Packed weights


def packed(draw: Draw, shape: tuple[int, ...], groups: int, factors: bool, shifts: int) -> Any:
    """A random weight whose whole numbers fit into bytes."""
    out, channels, taps = shape[0], shape[1], shape[2] * shape[3]
    codes = draw.whole(0, 15, out, channels * taps)
    zero_point = draw.whole(0, 15, out) if shifts < 4 and not factors else torch.full((out,), 8)
    n_shifts = -(-channels * taps // 16)
    return PackedWeight(
        packed_for_kernels(pack_codes(codes, 4), channels, taps),
        zero_point.to(torch.int8),
        draw.whole(1, 4, channels * groups).to(torch.int8) if factors else None,
        draw.whole(0, shifts, out, n_shifts).to(torch.uint8) if shifts else None,
        16 if shifts else 0,
    )


@given(
    window=windows,
    factors=st.booleans(),
    shifts=st.integers(0, 2),
    parts=st.integers(1, 3),
    expands=st.booleans(),
)
@settings(max_examples=16, deadline=None)
def test_packed_weights_are_multiplied_exactly(
    window: dict[str, Any], factors: bool, shifts: int, parts: int, expands: bool
) -> None:
    draw, codes, of_weight, shape = case(window)
    weight = packed(draw, of_weight, shape[-1], factors, shifts)
    whole = multiplied(weight, of_weight[1], shape[-1]).view(of_weight)
    tile = triton.Tile(32, 32, 32, parts)
    given_ = (codes, *weight, *units(of_weight[0]), *shape, torch.float32)
    found = triton.int_conv2d_packed(
        *here(*given_), tile=tile, expanded_from=0 if expands else 10**9
    )
    assert torch.equal(found.cpu().long(), sums_of(codes, whole, shape))
    assert torch.equal(found.cpu(), reference.int_conv2d_packed(*given_))


@given(
    window=windows,
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    shifts=st.integers(0, 3),
    expands=st.booleans(),
)
@settings(max_examples=12, deadline=None)
def test_weights_alone_are_unpacked_as_they_are_multiplied(
    window: dict[str, Any], pads: tuple[int, int], shifts: int, expands: bool
) -> None:
    draw, codes, of_weight, (kernel, stride, dilation, groups) = case(window)
    weight = packed(draw, of_weight, groups, False, shifts)
    x = draw.real(*codes.shape).half()
    tables = (draw.real(of_weight[0]).abs() / 50, draw.real(of_weight[0]))
    shape = (kernel, stride, list(pads), dilation, groups)
    given_ = (*weight[:2], *weight[3:], *tables, *shape)
    found = triton.conv2d_packed(*here(x, *given_), SMALL, 0 if expands else 10**9)
    assert found.dtype == torch.float16
    assert_near(found, reference.conv2d_packed(x.double(), *given_), 4e-3)


# What is around them


def test_parts_fill_the_device_and_no_more() -> None:
    from dgq.ops.triton.tiles import MOST_PARTS, parts_for

    assert parts_for(128, 1280, 180, 132) == 6  # two by ten tiles
    assert parts_for(8192, 320, 45, 132) == 1
    assert parts_for(64, 128, 8, 132) == 1  # too little to share
    assert parts_for(64, 128, 1000, 132) == MOST_PARTS


@pytest.mark.parametrize("n_rows", [1, 40, 500, 2000, 10**5])
@pytest.mark.parametrize("out_channels", [1, 100, 320, 10**4])
def test_candidates_are_of_the_size_of_the_product(n_rows: int, out_channels: int) -> None:
    from dgq.ops.triton.tiles import configurations, worth_trying

    found = worth_trying(configurations(), {"n_rows": n_rows, "out_channels": out_channels})
    sizes = [(c.kwargs["BLOCK_M"], c.kwargs["BLOCK_N"]) for c in found]
    assert sizes
    assert all(m < 2 * max(n_rows, 32) and n < 2 * max(out_channels, 64) for m, n in sizes)
    if n_rows == 10**5 and out_channels >= 320:
        assert (128, 256) in sizes
        assert min(m * n for m, n in sizes) >= 64 * 128
    if n_rows <= 500:
        assert max(m for m, _ in sizes) <= 64


def test_all_operators_with_a_kernel_are_registered_for_gpus() -> None:
    for name in gpu.LAUNCHED:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dgq::{name}", "CUDA")
        assert callable(getattr(triton, name))
