"""Whole multiples: factors by trying, and a slow search."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dgq.math.exponent_search import N_PHASES
from dgq.math.multiples import (
    channel_multiples,
    finest_scale,
    of_weights,
    possible_multiples,
    shared_multiple,
)
from tests.observed import randn


@pytest.mark.parametrize(
    ("n_bits", "max_exponent", "expected"),
    [
        (8, 0, [1]),
        (8, 2, [1, 2, 3, 4]),
        (6, 4, [1, 2, 3, 4, 6, 8, 9, 12, 16]),
        (6, 2, [1, 2, 3, 4]),
        (7, 2, [1, 2, 4]),
    ],
)
def test_possible_multiples_by_hand(n_bits: int, max_exponent: int, expected: list[int]) -> None:
    assert possible_multiples(n_bits, max_exponent).tolist() == expected


@given(n_bits=st.integers(2, 8), max_exponent=st.integers(0, 8))
def test_every_multiple_is_shared_by_factors_that_fit(n_bits: int, max_exponent: int) -> None:
    possible = possible_multiples(n_bits, max_exponent)
    on_codes, on_weights = shared_multiple(possible, n_bits, max_exponent)
    assert torch.equal(on_codes * on_weights, possible)
    assert on_codes.min() >= 1
    assert (on_codes * (2**n_bits - 1) <= 255).all()
    assert on_codes.max() * on_weights.max() == 2**max_exponent
    # Exponents are among them, with room to spare for none.
    assert set(2 ** np.arange(max_exponent + 1)) <= set(possible.tolist())


def slow_search(relative: np.ndarray, possible: list[int]) -> list[int]:
    best, least = [], math.inf
    for i in range(N_PHASES):
        t = 2 ** (i / N_PHASES)
        needed = relative.max(0) * possible[-1] / t
        found = [next(m for m in possible if m >= n) for n in needed]
        error = 0.0
        for row in relative:
            base = max(r / m for r, m in zip(row, found, strict=True))
            error += sum((base * m) ** 2 for m in found)
        if error < least * (1 - 1e-9):
            best, least = found, error
    return best


@pytest.mark.parametrize("max_exponent", [0, 1, 3, 5])
def test_channels_equal_a_slow_search(max_exponent: int) -> None:
    generator = torch.Generator().manual_seed(max_exponent)
    width = torch.rand(4, 9, generator=generator, dtype=torch.float64).pow(4)
    width *= torch.tensor([[1.0], [3.0], [0.01], [7.0]])
    width[:, 2] = 0
    found = channel_multiples(width, 6, max_exponent)
    relative = (width / width.amax(1, keepdim=True)).numpy()
    assert found.dtype == torch.int16
    assert found.tolist() == slow_search(relative, possible_multiples(6, max_exponent).tolist())
    assert found[2] == 1


def test_finest_scales_of_dead_steps_are_usable() -> None:
    scale = finest_scale(torch.tensor([[0.0, 0.0], [1e-40, 0.0]]), torch.tensor([1, 9]), 8)
    assert scale[0] == 1
    assert scale[1] >= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_weights_that_absorb_the_multiples_take_inputs_divided_by_them(groups: int) -> None:
    x, weight = randn(2, 6, 5, 5), randn(12, 6 // groups, 3, 2, seed=1)
    multiple = torch.tensor([1, 2, 4, 8, 16, 2])
    absorbed = (weight.flatten(1) * of_weights(multiple, weight.shape)).view_as(weight)
    found = F.conv2d(x / multiple[:, None, None], absorbed, groups=groups)
    torch.testing.assert_close(found, F.conv2d(x, weight, groups=groups))
