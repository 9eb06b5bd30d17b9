"""The budget of bits: what fits into 8-bit operands, counted by trying, and what is refused."""

from typing import Any

import pytest

from dgq.errors import SettingsError
from dgq.math.exponents import spare_activation_bits, spare_weight_bits
from dgq.settings import ActivationSettings, QuantizationSettings, WeightSettings


def differences(n_bits: int, symmetric: bool) -> set[int]:
    """Every ``code - zero_point`` that a weight can have."""
    codes = range(2**n_bits)
    zero_points = [2 ** (n_bits - 1)] if symmetric else codes
    return {code - zero_point for code in codes for zero_point in zero_points}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_bits", range(2, 9))
def test_spare_bits_of_weights_are_the_most_that_stay_within_s8(
    n_bits: int, symmetric: bool
) -> None:
    fitting = [
        shift
        for shift in range(9)
        if all(-128 <= d * 2**shift <= 127 for d in differences(n_bits, symmetric))
    ]
    assert spare_weight_bits(n_bits, symmetric) == max(fitting, default=None)


@pytest.mark.parametrize(
    ("n_bits", "symmetric", "spare"),
    [(4, False, 3), (4, True, 4), (8, True, 0), (8, False, None), (6, False, 1)],
)
def test_spare_bits_of_weights_by_hand(n_bits: int, symmetric: bool, spare: int | None) -> None:
    assert spare_weight_bits(n_bits, symmetric) == spare


@pytest.mark.parametrize("n_bits", range(2, 9))
def test_spare_bits_of_activations_are_the_most_that_stay_within_u8(n_bits: int) -> None:
    largest = 2**n_bits - 1
    assert largest * 2 ** spare_activation_bits(n_bits) <= 255
    assert largest * 2 ** (spare_activation_bits(n_bits) + 1) > 255


def settings_of(
    weights: tuple[int, bool, int], activations: tuple[int, int], grouping: Any = "exponents"
) -> QuantizationSettings:
    n_bits, symmetric, exponent = weights
    return QuantizationSettings(
        WeightSettings(
            n_bits, symmetric=symmetric, group_size=64 if exponent else 0, max_exponent=exponent
        ),
        ActivationSettings(activations[0], grouping, max_exponent=activations[1]),
    )


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ((4, False, 1), (8, 2)),
        ((4, True, 2), (8, 2)),
        ((4, False, 1), (6, 4)),
        ((4, True, 2), (6, 4)),
        ((4, False, 3), (4, 4)),
        ((4, True, 4), (4, 4)),
        ((8, True, 0), (8, 0)),
        ((8, True, 0), (6, 2)),
        ((16, False, 0), (8, 9)),
        ((4, False, 0), (16, 9)),
    ],
)
def test_exponents_within_the_budget_are_accepted(
    weights: tuple[int, bool, int], activations: tuple[int, int]
) -> None:
    settings_of(weights, activations)


@pytest.mark.parametrize(
    ("weights", "activations", "numbers"),
    [
        ((4, False, 1), (8, 3), r"max_exponent 1 .*max_exponent 3 .*leave 3 bits .*activations 0"),
        ((4, True, 3), (8, 2), r"max_exponent 3 .*max_exponent 2 .*leave 4 bits"),
        ((4, False, 2), (6, 4), r"leave 3 bits .*6-bit activations 2 in u8"),
        ((8, True, 0), (8, 1), r"leave 0 bits"),
        ((8, False, 0), (8, 0), r"set weights.symmetric to true"),
        # The activations' spare bits are of no use to exponents that differ by output channel.
        ((4, False, 4), (4, 0), r"leave 3 bits .*for activations alone"),
    ],
)
def test_exponents_beyond_the_budget_are_refused_with_the_numbers(
    weights: tuple[int, bool, int], activations: tuple[int, int], numbers: str
) -> None:
    with pytest.raises(SettingsError, match=numbers):
        settings_of(weights, activations)
    settings_of(weights, activations, "kmeans")


@pytest.mark.parametrize("value", [-1, 1.0, True])
@pytest.mark.parametrize("name", ["group_size", "max_exponent"])
def test_exponents_of_weights_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"weights\.{name} must be"):
        WeightSettings(4, **{name: value})


def test_exponents_of_weights_need_groups() -> None:
    with pytest.raises(SettingsError, match=r"set weights\.group_size"):
        WeightSettings(4, max_exponent=1)


def test_an_unknown_grouping_is_refused() -> None:
    with pytest.raises(SettingsError, match="kmeans, exponents, multiples"):
        ActivationSettings(8, "free")  # type: ignore[arg-type]
