"""Exponents against a slow search, one base scale and one member at a time, in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.math.exponent_search import N_PHASES, base_scale, channel_exponents, group_exponents


def exponents_by_hand(needed: np.ndarray, base: float, max_exponent: int) -> list[int]:
    found = []
    for value in needed:
        k = max_exponent if value == 0 else math.floor(math.log2(base / value))
        found.append(min(max(k, 0), max_exponent))
    return found


def slow_search(relative: np.ndarray, max_exponent: int) -> tuple[list[int], float]:
    """Exponents of ``[steps, members]``, and their sum of squared scales."""
    best, least = [], math.inf
    for i in range(N_PHASES):
        found = exponents_by_hand(relative.max(0), 2 ** (i / N_PHASES), max_exponent)
        error = 0.0
        for row in relative:
            base = max(r * 2.0**k for r, k in zip(row, found, strict=True))
            error += sum((base * 2.0**-k) ** 2 for k in found)
        if error < least * (1 - 1e-9):
            best, least = found, error
    return best, least


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_exponent", [0, 1, 2, 5])
def test_channels_equal_a_slow_search(max_exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    width = torch.rand(4, 9, generator=generator, dtype=torch.float64).pow(4)
    width *= torch.tensor([[1.0], [3.0], [0.01], [7.0]])
    width[:, 2] = 0
    found = channel_exponents(width, max_exponent)
    relative = (width / width.amax(1, keepdim=True)).numpy()
    expected, _ = slow_search(relative, max_exponent)
    assert found.dtype == torch.uint8
    assert found.tolist() == expected
    assert found[2] == max_exponent


@pytest.mark.parametrize("max_exponent", [1, 3])
def test_groups_of_weights_equal_a_slow_search(max_exponent: int) -> None:
    rows = torch.randn(40, 54, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows.pow(3)
    rows[3] = 0
    rows[2, 8:16] = 0
    found = group_exponents(rows, 8, max_exponent)
    assert found.shape == (40, 7)
    for row, exponents in zip(rows.abs().numpy(), found.tolist(), strict=True):
        largest = np.array([row[i : i + 8].max() for i in range(0, 54, 8)])
        relative = largest / largest.max() if largest.max() > 0 else largest
        assert exponents == slow_search(relative[None], max_exponent)[0]


@settings(max_examples=100, deadline=None)
@given(
    steps=st.integers(1, 4),
    channels=st.integers(1, 9),
    max_exponent=st.integers(0, 7),
    n_bits=st.integers(2, 8),
    seed=st.integers(0, 10_000),
)
def test_every_channel_is_covered_and_none_can_be_finer_alone(
    steps: int, channels: int, max_exponent: int, n_bits: int, seed: int
) -> None:
    width = torch.rand(steps, channels, generator=torch.Generator().manual_seed(seed)).pow(6)
    exponent = channel_exponents(width, max_exponent)
    scale = base_scale(width, exponent, n_bits)
    assert 0 <= exponent.min() <= exponent.max() <= max_exponent
    room = scale[:, None] * (-exponent.float()).exp2() * (2**n_bits - 1)
    assert (room >= width * (1 - 1e-6)).all()
    # In each step one channel at least fills its codes.
    assert torch.isclose(room, width).any(1).all()


def test_base_scales_of_dead_steps_are_usable() -> None:
    scale = base_scale(torch.tensor([[0.0, 0.0], [1e-40, 0.0]]), torch.tensor([0, 3]), 8)
    assert scale[0] == 1
    # The scales of exponents that the step uses are normal numbers too.
    assert (scale * 2.0**-3 >= torch.finfo(torch.float32).tiny).all()
    assert scale.isfinite().all()
