"""Scenes that differ from a given one in a single attribute."""

import dataclasses
import random
from collections.abc import Iterable
from typing import Any

from scenes.grammar import Scene
from scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
)

_OF_SCENES: dict[str, Iterable[str]] = {
    "background": BACKGROUNDS,
    "place": PLACES,
    "relation": RELATIONS,
    "count": COUNTS,
}
_OF_ITEMS: dict[str, Iterable[str]] = {
    "colour": COLOURS,
    "size": SIZES,
    "shape": SHAPES,
    "texture": TEXTURES,
}


def changeable(scene: Scene) -> list[str]:
    """The attributes that a scene's caption mentions; its place, relation or count comes last."""
    return [*_OF_ITEMS, *(name for name in _OF_SCENES if getattr(scene, name) is not None)]


def change(scene: Scene, attribute: str, generator: random.Random) -> Scene:
    """The scene with another value of one attribute, of one object if there are several.

    Raises:
        ValueError: the scene has no such attribute.
    """
    if attribute not in changeable(scene):
        raise ValueError(
            f"cannot change {attribute!r} here; expected one of {', '.join(changeable(scene))}"
        )
    if attribute in _OF_SCENES:
        value = _other(_OF_SCENES[attribute], [getattr(scene, attribute)], generator)
        changed: dict[str, Any] = {attribute: value}
        return dataclasses.replace(scene, **changed)
    items = list(scene.items)
    at = generator.randrange(len(items))
    taken = [getattr(items[at], attribute)]
    if attribute == "colour":
        # Objects in a relation differ in colour.
        taken = [item.colour for item in items]
    value = _other(_OF_ITEMS[attribute], taken, generator)
    items[at] = dataclasses.replace(items[at], **{attribute: value})
    return dataclasses.replace(scene, items=tuple(items))


def _other(values: Iterable[str], taken: list[str], generator: random.Random) -> str:
    return generator.choice([value for value in values if value not in taken])
