"""Learned rounding against its formulas, written once more with ``math``."""

import math

import pytest
import torch

from dgq.math.rounding import hard_rounding, rounding_logits, soft_rounding, temperature_at


def h_by_hand(v: float) -> float:
    return min(max(1.2 / (1 + math.exp(-v)) - 0.1, 0.0), 1.0)


def test_soft_rounding_is_the_rectified_sigmoid() -> None:
    v = torch.linspace(-6, 6, 41, dtype=torch.float64)
    assert soft_rounding(v).tolist() == pytest.approx([h_by_hand(x) for x in v.tolist()])


@pytest.mark.parametrize(("v", "h"), [(-30.0, 0.0), (30.0, 1.0), (0.0, 0.5)])
def test_soft_rounding_reaches_both_ends(v: float, h: float) -> None:
    assert soft_rounding(torch.tensor(v)).item() == pytest.approx(h)


def test_hard_rounding_goes_up_from_zero_on() -> None:
    assert hard_rounding(torch.tensor([-0.1, 0.0, 0.1])).tolist() == [0, 1, 1]


def test_logits_start_at_the_fraction() -> None:
    ratio = torch.linspace(-2, 2.999, 50, dtype=torch.float64)
    torch.testing.assert_close(soft_rounding(rounding_logits(ratio)), ratio - ratio.floor())


def test_hard_rounding_of_the_start_is_nearest_rounding() -> None:
    ratio = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 5
    halves = torch.arange(-9, 10) / 2
    beside = [torch.nextafter(halves, torch.tensor(end)) for end in (-torch.inf, torch.inf)]
    ratio = torch.cat([ratio, halves, *beside])
    rounded = ratio.floor() + hard_rounding(rounding_logits(ratio))
    assert torch.equal(rounded, ratio.round())


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, None), (0.19, None), (0.2, 20.0), (0.6, 11.0), (1.0, 2.0)]
)
def test_temperature_falls_from_20_to_2_after_the_warmup(
    progress: float, expected: float | None
) -> None:
    found = temperature_at(progress, 0.2)
    assert found == (None if expected is None else pytest.approx(expected))
