"""What a checkpoint must agree in to be resumed."""

from dataclasses import fields

import pytest

from dgq.errors import DGQError
from dgq.recipes import DGQ, Ours
from dgq.settings import LearningSettings, NetworkSettings
from lit.identity import check_identity, first_difference, identity_of


def identity(penalty: float, seed: int = 0) -> str:
    learning = LearningSettings(penalty=penalty)
    return identity_of(DGQ(learning=learning), {"seed": seed})


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
        ({"a": {"b": 1}}, {}, "a: {'b': 1} then, None now"),
        ({}, {"a": {"b": 1}}, "a: None then, {'b': 1} now"),
        ({"a": [1, 2]}, {"a": [1]}, "a: [1, 2] then, [1] now"),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a: 1 then, 2 now"),
    ],
)
def test_the_first_difference_by_name_is_named(
    saved: dict[str, object], current: dict[str, object], expected: str
) -> None:
    assert first_difference(saved, current) == expected


OTHER: dict[str, object] = {
    **dict.fromkeys(("rounding_lr", "scale_lr", "polish_lr", "activation_lr", "penalty"), 0.07),
    **{"iterations": 3, "polish_iterations": 4, "warmup": 0.5, "decay": "constant"},
}


NEAREST = LearningSettings(iterations=0, polish_iterations=0)


@pytest.mark.parametrize("name", [f.name for f in fields(NetworkSettings)])
def test_rates_of_the_network_are_identity_where_it_is_visited(name: str) -> None:
    other = NetworkSettings(**{name: 0.07})

    def identity_with(network: NetworkSettings | None, learning: LearningSettings) -> str:
        return identity_of(Ours(learning=learning, network=network), {})

    found = {identity_with(n, LearningSettings()) for n in (None, NetworkSettings(), other)}
    assert len(found) == 3
    assert len({identity_with(n, NEAREST) for n in (None, NetworkSettings(), other)}) == 1


@pytest.mark.parametrize("name", [f.name for f in fields(LearningSettings) if f.name in OTHER])
def test_each_setting_of_the_learning_is_identity_where_it_has_an_effect(name: str) -> None:
    def identity_with(**settings: object) -> str:
        learning = LearningSettings(**settings)  # type: ignore[arg-type]
        return identity_of(DGQ(learning=learning), {})

    def differs(**base: object) -> bool:
        return identity_with(**base) != identity_with(**base | {name: OTHER[name]})

    assert differs()
    counts = ("iterations", "polish_iterations")
    of_the_polish = ("polish_lr", "activation_lr")
    assert differs(polish_iterations=0) == (name not in of_the_polish)
    of_both = (*counts, *of_the_polish, "decay")
    assert differs(iterations=0) == (name in of_both)
    assert differs(iterations=0, polish_iterations=0) == (name in counts)
