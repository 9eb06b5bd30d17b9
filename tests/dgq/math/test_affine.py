"""Affine quantization against the formula, written once more with numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.math.affine import (
    affine_parameters,
    clamp_within,
    fake_quantize,
    round_ste,
    symmetric_parameters,
)

N_BITS = [2, 3, 4, 6, 8]


def by_hand(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, n_bits: int) -> np.ndarray:
    codes = np.clip(np.rint(x / scale) + zero_point, 0, 2**n_bits - 1)
    return scale * (codes - zero_point)


@pytest.mark.parametrize("n_bits", N_BITS)
def test_equals_the_formula_for_per_channel_scales(n_bits: int) -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 3
    scale = torch.tensor([[0.1], [0.02], [1.5], [0.3], [7.0]])
    zero_point = torch.tensor([[0.0], [3.0], [1.0], [-40.0], [300.0]])
    expected = by_hand(x.numpy(), scale.numpy(), zero_point.numpy(), n_bits)
    np.testing.assert_array_equal(fake_quantize(x, scale, zero_point, n_bits).numpy(), expected)


@pytest.mark.parametrize("n_bits", N_BITS)
def test_without_gradients_the_bits_are_the_same_and_the_input_stays(n_bits: int) -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 3
    before, scale = x.clone(), torch.tensor([[0.1], [0.02], [1.5], [0.3], [7.0]])
    zero_point = torch.tensor([[0], [3], [1], [-40], [300]], dtype=torch.int32)
    with torch.no_grad():
        quantized = fake_quantize(x, scale, zero_point, n_bits)
    assert torch.equal(quantized, fake_quantize(x, scale, zero_point, n_bits))
    assert torch.equal(x, before)


def test_halves_are_rounded_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    expected = [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 4.0]
    assert round_ste(x).tolist() == expected
    assert fake_quantize(x, torch.tensor(1.0), torch.tensor(8.0), 4).tolist() == expected


def test_values_outside_of_the_range_are_clipped_to_its_ends() -> None:
    x = torch.tensor([-100.0, 100.0])
    quantized = fake_quantize(x, torch.tensor(0.5), torch.tensor(4.0), 4)
    assert quantized.tolist() == [-0.5 * 4, 0.5 * (15 - 4)]


def test_gradient_is_the_identity_inside_and_zero_outside() -> None:
    x = torch.tensor([-3.0, -0.9, 0.24, 1.1, 90.0], requires_grad=True)
    fake_quantize(x, torch.tensor(0.5), torch.tensor(4.0), 4).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_gradient_of_the_scale_follows_from_the_straight_through_rounding() -> None:
    x, scale = torch.tensor([-9.0, 0.7, 90.0]), torch.tensor(0.5, requires_grad=True)
    quantized = fake_quantize(x, scale, torch.tensor(4.0), 4)
    found = [torch.autograd.grad(q, scale, retain_graph=True)[0].item() for q in quantized]
    # Below: qmin - zero_point. Inside: round(x / s) - x / s. Above: qmax - zero_point.
    assert found == pytest.approx([0 - 4, 1 - 1.4, 15 - 4])


@pytest.mark.parametrize("n_bits", N_BITS)
def test_parameters_span_the_range(n_bits: int) -> None:
    low, high = torch.tensor([-1.0, 0.0, -3.0, 2.0]), torch.tensor([1.0, 5.0, -2.0, 9.0])
    scale, zero_point = affine_parameters(low, high, n_bits)
    expected = (high.numpy() - low.numpy()) / np.float32(2**n_bits - 1)
    np.testing.assert_array_equal(scale.numpy(), expected)
    np.testing.assert_array_equal(zero_point.numpy(), np.rint(-low.numpy() / expected))


def test_zero_point_may_lie_outside_of_the_codes() -> None:
    _, zero_point = affine_parameters(torch.tensor([2.0, -9.0]), torch.tensor([9.0, -2.0]), 4)
    assert zero_point[0] < 0
    assert zero_point[1] > 15


@pytest.mark.parametrize("n_bits", N_BITS)
def test_symmetric_parameters_cover_the_range_around_a_fixed_zero_point(n_bits: int) -> None:
    low, high = torch.tensor([-1.0, 0.0, -3.0, 0.0]), torch.tensor([1.0, 5.0, 0.0, 0.0])
    scale, zero_point = symmetric_parameters(low, high, n_bits)
    half = 2 ** (n_bits - 1)
    assert zero_point.tolist() == [half] * 4
    assert scale.tolist() == pytest.approx([1 / (half - 1), 5 / (half - 1), 3 / half, 1])


@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 1e-12, -7e9, 3.14159])
def test_a_single_value_is_represented_exactly(value: float) -> None:
    x = torch.tensor([value])
    scale, zero_point = affine_parameters(x, x, 4)
    assert scale > 0
    quantized = fake_quantize(x, scale, zero_point, 4)
    torch.testing.assert_close(quantized, x, rtol=3e-7, atol=0)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("n_bits", N_BITS)
def test_narrow_ranges_far_from_zero_are_resolved_as_far_as_float32_goes(
    n_bits: int, sign: int
) -> None:
    largest = 2**n_bits - 1
    step = 1000 * 2.0 ** -torch.arange(4.5, 30)
    near, far = torch.tensor(1000.0) - step * largest, torch.full_like(step, 1000)
    low, high = (near, far) if sign > 0 else (-far, -near)
    scale, zero_point = affine_parameters(low, high, n_bits)
    # As whole numbers of 24 bits, they leave four for a fraction of a code.
    assert (zero_point.abs() <= 2**20).all()
    resolved = (high - low) / largest > 1000 * 2.0**-20
    assert resolved.sum() > 10
    torch.testing.assert_close(scale[resolved], ((high - low) / largest)[resolved])


@pytest.mark.parametrize("parameters", [affine_parameters, symmetric_parameters])
def test_a_scale_is_never_next_to_nothing(parameters: Callable[..., tuple[Tensor, ...]]) -> None:
    """A value that calibration never saw is divided by it, and the result has to be a code."""
    scale, _ = parameters(torch.tensor([0.0, -1e-44]), torch.tensor([0.0, 1e-44]), 4)
    assert scale[0] == 1
    assert scale[1] >= torch.finfo(torch.float32).tiny


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(-1e4, 1e4, width=32),
    width=st.floats(0, 1e4, width=32),
    position=st.floats(0, 1),
    n_bits=st.sampled_from(N_BITS),
)
def test_error_inside_the_range_is_at_most_half_a_step(
    low: float, width: float, position: float, n_bits: int
) -> None:
    lower = torch.tensor(low)
    upper = lower + torch.tensor(width)
    x = (lower + (upper - lower) * position).clamp(lower, upper)
    scale, zero_point = affine_parameters(lower, upper, n_bits)
    error = (fake_quantize(x, scale, zero_point, n_bits) - x).abs()
    assert error <= scale / 2 + x.abs() * 2**-21


@torch.no_grad()
def test_it_is_compiled_whatever_the_layout_of_images() -> None:
    x = torch.randn(2, 6, 5, 5).to(memory_format=torch.channels_last)
    scale, zero_point = torch.rand(6, 1, 1) + 0.1, torch.arange(6).view(6, 1, 1)
    compiled = torch.compile(fake_quantize, fullgraph=True, backend="eager")
    expected = fake_quantize(x, scale, zero_point, 4)
    assert torch.equal(compiled(x, scale, zero_point, 4), expected)


def test_clamped_values_at_an_end_keep_their_gradient() -> None:
    """Whatever torch's version: it was so up to 2.13, and codes often lie at an end."""
    x = torch.tensor([-1.0, 0.0, 0.4, 3.0, 4.0, torch.nan], requires_grad=True)
    found = clamp_within(x, 0, 3)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), x.detach().clamp(0, 3), equal_nan=True)
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0, 0]
