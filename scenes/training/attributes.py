"""A caption's content as class indices: targets of the auxiliary loss of CLIP's towers.

Objects are taken in reading order of the picture, so that the two captions of one picture
("A above B" and "B below A") have the same targets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scenes.grammar import Item, Scene, parse_caption
from scenes.vocabulary import BACKGROUNDS, COLOURS, COUNTS, PLACES, SHAPES, SIZES, TEXTURES, plural

MISSING = -100
"""Target of the second object's attributes where there is none (`cross_entropy` ignores it)."""

_REVERSED = ("to the right of", "below")
_LAYOUTS = (*PLACES, *COUNTS, "row", "column")
ITEM_CLASSES = (len(SIZES), len(TEXTURES), len(COLOURS), len(SHAPES))
"""Number of classes of an object's size, texture, colour and shape."""
SCENE_CLASSES = (len(BACKGROUNDS), len(_LAYOUTS), *ITEM_CLASSES, *ITEM_CLASSES)
"""Number of classes of background, layout, and the attributes of up to two objects."""
NOUNS = frozenset(SHAPES) | frozenset(plural(shape) for shape in SHAPES)


def scene_targets(captions: Sequence[str]) -> Tensor:
    """Classes of whole scenes, [captions, len(SCENE_CLASSES)]."""
    return torch.tensor([_scene_row(parse_caption(caption)) for caption in captions])


def noun_targets(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Where captions name their objects, and what each is.

    Returns token positions, counting the start token, [captions, 2], and classes,
    [captions, 2, len(ITEM_CLASSES)]; a missing second object repeats the first.
    """
    positions, classes = [], []
    for caption in captions:
        at = [i + 1 for i, word in enumerate(caption.split()) if word in NOUNS]
        rows = [_item_row(item) for item in parse_caption(caption).items]
        positions.append([at[0], at[-1]])
        classes.append([rows[0], rows[-1]])
    return torch.tensor(positions), torch.tensor(classes)


def _scene_row(scene: Scene) -> list[int]:
    if scene.relation is None:
        layout, items = scene.place or scene.count or "", scene.items
    else:
        layout = "column" if scene.relation in ("above", "below") else "row"
        items = scene.items[::-1] if scene.relation in _REVERSED else scene.items
    second = _item_row(items[1]) if len(items) == 2 else [MISSING] * len(ITEM_CLASSES)
    background = list(BACKGROUNDS).index(scene.background)
    return [background, _LAYOUTS.index(layout), *_item_row(items[0]), *second]


def _item_row(item: Item) -> list[int]:
    return [
        list(SIZES).index(item.size),
        TEXTURES.index(item.texture),
        list(COLOURS).index(item.colour),
        SHAPES.index(item.shape),
    ]
