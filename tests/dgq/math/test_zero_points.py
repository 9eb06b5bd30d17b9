"""Ranges are widened, and zero points centred, as examples by hand say."""

import pytest
import torch

from dgq.math.zero_points import centred_zero_point, required_range


@pytest.mark.parametrize(
    ("low", "high", "expected", "padded"),
    [
        (-1.0, 2.0, (-1.0, 2.0), (-1.0, 2.0)),
        (4.0, 5.0, (2.5, 5.0), (0.0, 5.0)),
        (2.0, 5.0, (2.0, 5.0), (0.0, 5.0)),
        (-5.0, -4.0, (-5.0, -2.5), (-5.0, 0.0)),
        (3.0, 3.0, (1.5, 3.0), (0.0, 3.0)),
        (0.0, 0.0, (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_ranges_are_widened_as_far_as_zero_points_need(
    low: float, high: float, expected: tuple[float, float], padded: tuple[float, float]
) -> None:
    ends = torch.tensor(low), torch.tensor(high)
    assert tuple(x.item() for x in required_range(*ends, False)) == expected
    assert tuple(x.item() for x in required_range(*ends, True)) == padded


def test_zero_points_centre_a_range() -> None:
    low, high, scale = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([1.0, 4.0, 3.0]), torch.ones(3)
    # The middle of the range lies at the middle of the codes, 7.5.
    assert centred_zero_point(low, high, scale, 4).tolist() == [8, 6, 5]
