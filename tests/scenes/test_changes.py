"""A changed scene differs in one attribute, and is as good a scene as any."""

import random
from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenes import ATTRIBUTES, Item, Scene, describe, parse_caption
from scenes.captions import random_scene
from scenes.changes import change, changeable
from scenes.vocabulary import COLOURS

scenes = st.builds(lambda seed: random_scene(random.Random(seed)), st.integers(0))
seeds = st.integers(0)


def differences(before: Scene, after: Scene) -> list[str]:
    """Names of the fields that differ, of scenes and of each of their objects."""
    names = ("background", "place", "relation", "count")
    found = [name for name in names if getattr(before, name) != getattr(after, name)]
    for old, new in zip(before.items, after.items, strict=True):
        found += [f.name for f in fields(Item) if getattr(old, f.name) != getattr(new, f.name)]
    return found


@given(scenes, seeds, st.data())
def test_exactly_one_attribute_differs(scene: Scene, seed: int, data: st.DataObject) -> None:
    attribute = data.draw(st.sampled_from(changeable(scene)))
    changed = change(scene, attribute, random.Random(seed))
    assert differences(scene, changed) == [attribute]
    assert parse_caption(describe(changed)) == changed
    assert describe(changed) != describe(scene)


@given(scenes, seeds, st.data())
def test_the_same_seed_makes_the_same_change(scene: Scene, seed: int, data: st.DataObject) -> None:
    attribute = data.draw(st.sampled_from(changeable(scene)))
    first, again = (change(scene, attribute, random.Random(seed)) for _ in range(2))
    assert first == again


@given(scenes, seeds)
def test_what_a_scene_lacks_cannot_be_changed(scene: Scene, seed: int) -> None:
    lacking = set(ATTRIBUTES) - set(changeable(scene))
    assert len(lacking) == 2  # of place, relation and count
    for attribute in (*lacking, "weight"):
        with pytest.raises(ValueError, match=f"cannot change '{attribute}' here; expected one of"):
            change(scene, attribute, random.Random(seed))


def test_every_other_value_and_both_objects_are_reached() -> None:
    scene = parse_caption("a small red circle above a large blue square on a white background")
    generator = random.Random(0)
    changed = [change(scene, "colour", generator) for _ in range(1200)]
    first, second = (
        Counter(c.items[i].colour for c in changed if c.items[1 - i] == scene.items[1 - i])
        for i in (0, 1)
    )
    assert first.keys() == second.keys() == COLOURS.keys() - {"red", "blue"}
    assert 500 < first.total() < 700
    assert min(first.values()) > 60
