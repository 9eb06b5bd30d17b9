"""Captions and scenes are two writings of the same thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenes import describe, is_scene_caption, parse_caption
from scenes.grammar import Item, Scene
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
    words,
)


def pick(table: object) -> st.SearchStrategy[str]:
    assert isinstance(table, (dict, tuple))
    return st.sampled_from(list(table))


items = st.builds(Item, pick(SIZES), pick(TEXTURES), pick(COLOURS), pick(SHAPES))
pairs = st.tuples(items, items).filter(lambda pair: pair[0].colour != pair[1].colour)
scenes = st.one_of(
    st.builds(Scene, st.tuples(items), pick(BACKGROUNDS), place=pick(PLACES)),
    st.builds(Scene, pairs, pick(BACKGROUNDS), relation=pick(RELATIONS)),
    st.builds(Scene, st.tuples(items), pick(BACKGROUNDS), count=pick(COUNTS)),
)


@given(scenes)
def test_parse_inverts_describe(scene: Scene) -> None:
    caption = describe(scene)
    assert parse_caption(caption) == scene
    assert set(caption.split()) <= set(words())


@given(scenes)
def test_objects_are_as_many_as_the_caption_says(scene: Scene) -> None:
    assert len(scene.objects) == scene.n_objects
    assert set(scene.objects) == set(scene.items)


def test_examples() -> None:
    caption = "a small striped red circle to the left of a large blue square on a pink background"
    scene = parse_caption(caption)
    assert scene.items == (
        Item("small", "striped", "red", "circle"),
        Item("large", "plain", "blue", "square"),
    )
    assert (scene.relation, scene.background, scene.n_objects) == ("to the left of", "pink", 2)
    assert parse_caption("three small yellow crosses on a grey background").n_objects == 3


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a photo of a cat",
        "a small circle in the centre on a white background",
        "a small red circle in the centre on a white background ",
        "a small plain red circle in the centre on a white background",
        "three small red circle on a white background",
        "a small red circle above a large red square on a white background",
        "a small red circle in the centre on a red background",
    ],
)
def test_other_captions_are_refused(caption: str) -> None:
    assert not is_scene_caption(caption)
    with pytest.raises(ValueError, match="not a scene caption"):
        parse_caption(caption)


def test_impossible_scenes_are_refused() -> None:
    item = Item("small", "plain", "red", "circle")
    with pytest.raises(ValueError, match="one of place, relation and count"):
        Scene((item,), "white")
    with pytest.raises(ValueError, match="2 item"):
        Scene((item,), "white", relation="above")
    with pytest.raises(ValueError, match="differ in colour"):
        Scene((item, item), "white", relation="above")
    with pytest.raises(ValueError, match="'huge' is not one of small, large"):
        Item("huge", "plain", "red", "circle")


def test_plurals() -> None:
    assert [plural(shape) for shape in ("cross", "bar")] == ["crosses", "bars"]
