"""Scenes and their captions: one scene has one caption, and one caption one scene.

a small striped red circle in the top left on a white background
a large blue square to the left of a small dotted green bar on a pink background
three small yellow crosses on a grey background
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    plural,
)


@dataclass(frozen=True)
class Item:
    """One object's appearance; the fields are words of the vocabulary."""

    size: str
    texture: str
    colour: str
    shape: str

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.size, SIZES),
            (self.texture, TEXTURES),
            (self.colour, COLOURS),
            (self.shape, SHAPES),
        ):
            _require(value, tuple(allowed))


@dataclass(frozen=True)
class Scene:
    """A picture's content.

    Exactly one of `place` (one item), `relation` (two items of different colours: the first is
    in that relation to the second) and `count` (one item, drawn so many times) is set.
    """

    items: tuple[Item, ...]
    background: str
    place: str | None = None
    relation: str | None = None
    count: str | None = None

    def __post_init__(self) -> None:
        _require(self.background, tuple(BACKGROUNDS))
        layouts = ((self.place, PLACES), (self.relation, RELATIONS), (self.count, COUNTS))
        given = [(value, tuple(allowed)) for value, allowed in layouts if value is not None]
        if len(given) != 1:
            raise ValueError(f"a scene has one of place, relation and count, not {len(given)}")
        _require(*given[0])
        n_items = 1 if self.relation is None else 2
        if len(self.items) != n_items:
            raise ValueError(f"this layout describes {n_items} item(s), got {len(self.items)}")
        if len({item.colour for item in self.items}) != n_items:
            raise ValueError("two objects in a relation must differ in colour")

    @property
    def n_objects(self) -> int:
        """How many objects are drawn."""
        return len(self.items) if self.count is None else COUNTS[self.count]

    @property
    def objects(self) -> tuple[Item, ...]:
        """The appearance of every object drawn, `n_objects` of them."""
        return self.items if self.count is None else self.items * self.n_objects


def describe(scene: Scene) -> str:
    """The caption of a scene; inverse of `parse_caption`."""
    first = scene.items[0]
    if scene.count is not None:
        subject = f"{scene.count} {_appearance(first, plural(first.shape))}"
    elif scene.relation is not None:
        second = scene.items[1]
        subject = f"a {_appearance(first)} {scene.relation} a {_appearance(second)}"
    else:
        subject = f"a {_appearance(first)} {scene.place}"
    return f"{subject} on a {scene.background} background"


def parse_caption(caption: str) -> Scene:
    """The scene that a caption describes; inverse of `describe`.

    Raises:
        ValueError: the caption is not one that `describe` writes.
    """
    match = _CAPTION.fullmatch(caption)
    if match is None:
        raise ValueError(
            f"not a scene caption: {caption!r}; expected one such as "
            "'a small striped red circle to the left of a large blue square on a pink background'"
        )
    part = match.groupdict()
    place, relation, count = part["place"], part["relation"], part["count"]
    if count is None:
        items = (_item(part, "first"),) if place else (_item(part, "first"), _item(part, "second"))
    else:
        items = (_item(part, "many"),)
    try:
        return Scene(items, part["background"], place, relation, count)
    except ValueError as error:
        raise ValueError(f"not a scene caption: {caption!r}: {error}") from None


def is_scene_caption(caption: str) -> bool:
    """Whether `parse_caption` accepts the caption."""
    try:
        parse_caption(caption)
    except ValueError:
        return False
    return True


def _require(value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")


def _appearance(item: Item, noun: str | None = None) -> str:
    texture = [] if item.texture == TEXTURES[0] else [item.texture]
    return " ".join([item.size, *texture, item.colour, noun or item.shape])


def _one_of(name: str, choices: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(choices)})"


def _item_pattern(name: str, nouns: list[str]) -> str:
    return (
        f"{_one_of(name + '_size', SIZES)} (?:{_one_of(name + '_texture', TEXTURES[1:])} )?"
        f"{_one_of(name + '_colour', COLOURS)} {_one_of(name + '_shape', nouns)}"
    )


def _caption_pattern() -> re.Pattern[str]:
    first, second = (_item_pattern(name, list(SHAPES)) for name in ("first", "second"))
    one = f"a {first} (?:{_one_of('place', PLACES)}|{_one_of('relation', RELATIONS)} a {second})"
    many = f"{_one_of('count', COUNTS)} {_item_pattern('many', list(_SINGULAR))}"
    return re.compile(f"(?:{one}|{many}) on a {_one_of('background', BACKGROUNDS)} background")


def _item(part: dict[str, str], name: str) -> Item:
    shape = part[f"{name}_shape"]
    return Item(
        size=part[f"{name}_size"],
        texture=part[f"{name}_texture"] or TEXTURES[0],
        colour=part[f"{name}_colour"],
        shape=_SINGULAR.get(shape, shape),
    )


_SINGULAR = {plural(shape): shape for shape in SHAPES}
_CAPTION = _caption_pattern()
