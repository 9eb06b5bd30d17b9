"""Weights, from full precision to codes in a file: nearest rounding, ranges, degenerate rows."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.errors import DGQError
from dgq.math.packing import unpack_codes
from dgq.math.range_search import weight_range
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import WeightSettings
from tests.fidelity.formulas import code_of, minmax_range, quantized, search_errors, span

EVERY_BITS = range(2, 9)
ONE_CHANNEL = {
    "halves": [0.0, 15.0, 0.5, 2.5, 1.5, 6.5],
    "dead": [0.0, 0.0, 0.0],
    "constant": [0.7, 0.7, 0.7],
    "negative constant": [-0.7, -0.7],
    "one weight": [-3.0],
    "one dead weight": [0.0],
    "positive": [0.5, 1.0, 3.0],
    "negative": [-0.5, -1.0, -3.0],
    "far from zero": [100.0, 100.5, 101.0],
    "one outlier": [1e4, 0.1, -0.2, 0.3],
    "huge": [1e30, -3e30, 2e29],
    "tiny": [1e-30, -3e-30, 2e-31],
    "tiny, one outlier": [3e-20, *(1e-21 * i for i in range(-10, 11))],
}


def packed(weight: Tensor, settings: WeightSettings) -> tuple[Tensor, Tensor]:
    """Codes and dequantized weights ``[out, n]`` that a calibration without learning ends with."""
    quantizer = WeightQuantizer(settings, weight.shape)
    quantizer.start_learning_(weight)
    quantizer.harden_(None)
    codes = unpack_codes(quantizer.codes, settings.n_bits, weight.shape[1])
    return codes, quantizer(None)[0]


def nearest(row: list[float], low: float, high: float, n_bits: int) -> tuple[list, list]:
    """Codes and values of a row under a range."""
    scale, zero_point = span(low, high, n_bits)
    codes = [code_of(x, scale, zero_point, n_bits) for x in row]
    return codes, [quantized(x, scale, zero_point, n_bits) for x in row]


def test_the_reviewers_row_rounds_halves_to_even() -> None:
    codes, values = packed(torch.tensor([[0.0, 15.0, 0.5, 2.5]]), WeightSettings(4, "minmax"))
    assert codes.tolist() == [[0, 15, 0, 2]]
    assert values.tolist() == [[0.0, 15.0, 0.0, 2.0]]


@pytest.mark.parametrize("n_bits", EVERY_BITS)
@pytest.mark.parametrize("name", ONE_CHANNEL)
def test_nearest_rounding_of_any_row(name: str, n_bits: int) -> None:
    row = np.float32(ONE_CHANNEL[name]).tolist()
    codes, values = packed(torch.tensor([row]), WeightSettings(n_bits, "minmax"))
    expected = nearest(row, *minmax_range(row), n_bits)
    assert codes[0].tolist() == expected[0]
    assert values[0].tolist() == pytest.approx(expected[1], rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    twice=st.lists(st.integers(-60, 60), min_size=1, max_size=9),
    power=st.integers(-40, 40),
    n_bits=st.sampled_from(EVERY_BITS),
)
@example(twice=[-16, -32], power=0, n_bits=3)
def test_halves_round_to_even_at_every_scale(twice: list[int], power: int, n_bits: int) -> None:
    """Halves of a scale that is a power of two, so that no rounding error hides a tie."""
    largest = 2**n_bits - 1
    low = max(min(0, *twice) / 2, -largest)
    high = low + largest  # the range is as wide as all codes
    row = [value * 2.0**power for value in (high, *(max(low, min(t / 2, high)) for t in twice))]
    codes, _ = packed(torch.tensor([row]), WeightSettings(n_bits, "minmax"))
    assert codes[0].tolist() == nearest(row, *minmax_range(row), n_bits)[0]


@pytest.mark.parametrize("n_bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", ONE_CHANNEL)
def test_the_search_takes_the_first_of_the_best_candidates(name: str, n_bits: int) -> None:
    row = np.float32(ONE_CHANNEL[name]).tolist()
    errors = search_errors(row, n_bits)
    low, high = weight_range(torch.tensor([row]), n_bits, "mse")
    full = minmax_range(row)
    chosen = (high - low).item() / (full[1] - full[0] or 1.0)
    index = round((1 - chosen) * 100) if full[0] != full[1] else 0
    # In float32 candidates within its precision are equals.
    assert errors[index] <= min(errors) * (1 + 1e-4)
    assert all(error > errors[index] * (1 - 1e-4) for error in errors[:index])


@settings(max_examples=60, deadline=None)
@given(
    row=st.lists(st.floats(-8, 8), min_size=1, max_size=24),
    magnitude=st.sampled_from([1e-30, 1e-12, 1.0, 1e12]),
    n_bits=st.sampled_from([2, 4, 8]),
)
def test_the_search_in_double_precision(row: list[float], magnitude: float, n_bits: int) -> None:
    row = [x * magnitude for x in row]
    errors = search_errors(row, n_bits)
    low, high = weight_range(torch.tensor([row], dtype=torch.float64), n_bits, "mse")
    least, full = min(errors), minmax_range(row)
    best = [i for i, error in enumerate(errors) if error <= least * (1 + 1e-9)]
    ends = [(full[0] * (1 - 0.01 * i), full[1] * (1 - 0.01 * i)) for i in best]
    found = (low.item(), high.item())
    assert any(found == pytest.approx(pair, rel=1e-9, abs=1e-300) for pair in ends)
    if least == 0:
        assert found == pytest.approx(ends[0])


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("exponents", [0, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_zero_lies_in_the_range_of_rows_of_one_sign(method: str, exponents: int, sign: int) -> None:
    """Also after the division by the groups' factors: zero has a code, and stays zero."""
    generator = torch.Generator().manual_seed(0)
    weight = sign * (torch.rand(6, 32, generator=generator) + 2)
    weight[:, 8:16] *= 0.3
    how = WeightSettings(4, method, group_size=8, max_exponent=exponents)  # type: ignore[arg-type]
    quantizer = WeightQuantizer(how, weight.shape)
    quantizer.start_learning_(weight)
    assert ((quantizer.zero_point >= 0) & (quantizer.zero_point <= 15)).all()
    assert (quantizer.zero_point == (0 if sign == 1 else 15)).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, symmetric: bool) -> None:
    weight = torch.ones(3, 4)
    weight[1, 2] = value
    with pytest.raises(DGQError, match="not finite"):
        packed(weight, WeightSettings(4, symmetric=symmetric))


def test_a_range_wider_than_float32_is_refused() -> None:
    with pytest.raises(DGQError, match="more than float32 holds"):
        packed(torch.tensor([[3e38, -3e38]]), WeightSettings(4, "minmax"))
