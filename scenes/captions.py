"""Drawing captions at random, with a fixed split into training and test captions."""

import random
import zlib
from typing import Literal

from scenes.grammar import Item, Scene, describe
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

Split = Literal["train", "test"]

# How often each layout is drawn. Single objects are favoured: they teach appearance fastest.
LAYOUT_WEIGHTS = {"place": 0.5, "relation": 0.3, "count": 0.2}
_TEST_SHARE = 0.1
_ATTEMPTS_TO_STAY_DISTINCT = 20


def sample_captions(n: int, seed: int, split: Split) -> list[str]:
    """Draw `n` captions of a split; the same arguments give the same captions.

    Captions are distinct unless that many are hard to find. The two splits never overlap, since
    a hash of the caption decides which split it belongs to.

    Raises:
        ValueError: `n` is negative or the split is unknown.
    """
    if n < 0:
        raise ValueError(f"cannot draw {n} captions; n must be at least 0")
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; expected 'train' or 'test'")
    generator = random.Random(f"{split} {seed}")
    captions: dict[str, None] = {}
    repeats: list[str] = []
    while len(captions) + len(repeats) < n:
        caption = _draw_new(generator, split, captions)
        if caption in captions:
            repeats.append(caption)
        captions[caption] = None
    drawn = [*captions, *repeats]
    if repeats:
        generator.shuffle(drawn)
    return drawn


def split_of(caption: str) -> Split:
    """The split a caption belongs to."""
    return "test" if zlib.crc32(caption.encode()) % 1000 < 1000 * _TEST_SHARE else "train"


def class_prompts() -> list[str]:
    """One caption for each colour and shape, colour-major: classes for zero-shot probabilities."""
    return [
        describe(Scene((Item("large", "plain", colour, shape),), "white", place="in the centre"))
        for colour in COLOURS
        for shape in SHAPES
    ]


def _draw_new(generator: random.Random, split: Split, taken: dict[str, None]) -> str:
    """A caption of the split, one that is not taken yet if a few attempts find it."""
    attempts = 0
    while True:
        caption = describe(random_scene(generator))
        if split_of(caption) != split:
            continue
        attempts += 1
        if caption not in taken or attempts == _ATTEMPTS_TO_STAY_DISTINCT:
            return caption


def random_scene(generator: random.Random) -> Scene:
    """Draw a scene: the layout by `LAYOUT_WEIGHTS`, everything else uniformly."""
    layout = generator.choices(list(LAYOUT_WEIGHTS), list(LAYOUT_WEIGHTS.values()))[0]
    background = generator.choice(list(BACKGROUNDS))
    colours = generator.sample(list(COLOURS), 2)
    first, second = (_random_item(generator, colour) for colour in colours)
    if layout == "place":
        return Scene((first,), background, place=generator.choice(list(PLACES)))
    if layout == "count":
        return Scene((first,), background, count=generator.choice(list(COUNTS)))
    return Scene((first, second), background, relation=generator.choice(list(RELATIONS)))


def _random_item(generator: random.Random, colour: str) -> Item:
    return Item(
        size=generator.choice(list(SIZES)),
        texture=generator.choice(TEXTURES),
        colour=colour,
        shape=generator.choice(SHAPES),
    )
