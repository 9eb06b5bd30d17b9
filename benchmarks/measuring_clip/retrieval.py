"""Retrieval: whether the nearest among many is the right one."""

from collections.abc import Sequence

from torch import Tensor

import scenes
from benchmarks.measuring_clip.share import Share
from scenes.vocabulary import RELATIONS

BAR = 0.80
DIRECTIONS = ("picture to caption", "caption to picture")
INVERSES = {a: b for a in RELATIONS for b in RELATIONS if RELATIONS[a] == RELATIONS[b][::-1]}


def retrieve(pictures: Tensor, texts: Tensor, keys: Sequence[str]) -> dict[str, Share]:
    """How often the nearest caption or picture is the right one, or one with the same key.

    Args:
        pictures: embeddings [N, p] of unit length.
        texts: embeddings [N, p] of unit length.
        keys: equal where captions describe the same picture, [N].
    """
    cosines = pictures @ texts.T
    shares = {}
    for name, table in zip(DIRECTIONS, (cosines, cosines.T), strict=True):
        nearest = table.argmax(1).tolist()
        hits = sum(keys[i] == keys[best] for i, best in enumerate(nearest))
        shares[name] = Share(hits, len(keys), BAR, len(keys))
    return shares


def picture_key(caption: str) -> str:
    """The same for captions of the same picture: "A above B" is "B below A"."""
    scene = scenes.parse_caption(caption)
    if scene.relation is None:
        return caption
    mirrored = scenes.Scene(scene.items[::-1], scene.background, relation=INVERSES[scene.relation])
    return min(caption, scenes.describe(mirrored))
