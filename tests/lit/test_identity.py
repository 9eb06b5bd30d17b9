"""What a checkpoint must agree in to be resumed."""

import pytest

from dgq.errors import DGQError
from dgq.settings import LearningSettings, QuantizationSettings
from lit.identity import check_identity, first_difference, identity_of


def identity(penalty: float, seed: int = 0) -> str:
    learning = LearningSettings(penalty=penalty)
    return identity_of(QuantizationSettings(), learning, {"seed": seed})


def test_equal_settings_agree() -> None:
    check_identity(identity(7.0), identity(7.0))


def test_other_settings_are_refused_with_the_difference() -> None:
    with pytest.raises(DGQError, match=r"penalty: 7\.0 then, 0\.05 now"):
        check_identity(identity(7.0), identity(0.05))
    with pytest.raises(DGQError, match="seed: 0 then, 1 now"):
        check_identity(identity(7.0), identity(7.0, seed=1))


@pytest.mark.parametrize(
    ("saved", "current", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "c: 2 then, 3 now"),
        ({"a": 1}, {"a": 1, "b": 2}, "b: None then, 2 now"),
        ({"a": [1, 2]}, {"a": [1]}, "a: [1, 2] then, [1] now"),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a: 1 then, 2 now"),
    ],
)
def test_the_first_difference_by_name_is_named(
    saved: dict[str, object], current: dict[str, object], expected: str
) -> None:
    assert first_difference(saved, current) == expected
