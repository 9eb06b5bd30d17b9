"""Scoring pictures against their captions, attribute by attribute."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from scenes.grammar import Item, Scene, parse_caption
from scenes.reading import Reading, read
from scenes.vocabulary import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES

ATTRIBUTES = ("background", "colour", "size", "shape", "texture", "place", "relation", "count")

_ITEM_ATTRIBUTES = ("colour", "size", "shape", "texture")
_PLACE_TOLERANCE = 0.125  # half way to the next place
_RELATION_MARGIN = 0.125


@dataclass(frozen=True)
class OracleScore:
    """Hits of pictures, attribute by attribute.

    `hits` and `asked` map each attribute to integers [pictures]: how often the caption asks for
    it (for colour, size, shape and texture once for each object, else at most once) and how
    often the picture complies.
    """

    hits: dict[str, Tensor]
    asked: dict[str, Tensor]

    @property
    def correct(self) -> dict[str, Tensor]:
        """Whether a picture has everything that its caption asks of an attribute, [pictures] bool.

        True where the caption asks nothing; see `applies`.
        """
        return {name: self.hits[name] == self.asked[name] for name in ATTRIBUTES}

    @property
    def applies(self) -> dict[str, Tensor]:
        """Whether a picture's caption asks for an attribute, [pictures] bool."""
        return {name: self.asked[name] > 0 for name in ATTRIBUTES}

    def summary(self) -> dict[str, float]:
        """Accuracy in [0, 1] of each attribute, their mean, and the share of faultless pictures.

        Keys: the attributes that were asked for at least once, `mean` over these, and `all`.
        """
        accuracy = {
            name: float(self.hits[name].sum() / self.asked[name].sum())
            for name in ATTRIBUTES
            if self.asked[name].any()
        }
        faultless = torch.stack(list(self.correct.values())).all(0)
        mean = sum(accuracy.values()) / max(len(accuracy), 1)
        return {"mean": mean, "all": float(faultless.float().mean()), **accuracy}


def score(images: Tensor, captions: Sequence[str]) -> OracleScore:
    """Score pictures, [captions, 3, side, side] in [0, 1], against captions.

    Raises:
        ValueError: there are no pictures or not as many as captions, they are not square, or a
            caption is outside the grammar.
    """
    if len(images) != len(captions) or not captions:
        raise ValueError(
            f"got {len(images)} pictures and {len(captions)} captions; expected one caption for "
            "each picture, and at least one"
        )
    reading = read(images)
    rows = [_score_scene(parse_caption(c), reading, i) for i, c in enumerate(captions)]
    hits, asked = (
        {name: torch.tensor([row[name][k] for row in rows]) for name in ATTRIBUTES} for k in (0, 1)
    )
    return OracleScore(hits, asked)


def _score_scene(scene: Scene, reading: Reading, picture: int) -> dict[str, tuple[int, int]]:
    """(hits, asked) of each attribute for one picture."""
    wanted = scene.objects
    matched = _match(scene, reading, picture)
    row = {}
    for k, name in enumerate(_ITEM_ATTRIBUTES):
        hits = sum(
            _item_hits(item, reading, picture, slot)[k]
            for item, slot in zip(wanted, matched, strict=True)
        )
        row[name] = (hits, len(wanted))
    background = list(BACKGROUNDS).index(scene.background)
    row["background"] = (int(reading.background[picture] == background), 1)
    row["count"] = (int(reading.count[picture] == len(wanted)), 1)
    centres = [reading.centre[picture, slot].tolist() if slot >= 0 else None for slot in matched]
    row["place"] = (int(_is_in_place(scene, centres)), int(scene.place is not None))
    row["relation"] = (int(_is_related(scene, centres)), int(scene.relation is not None))
    return row


def _match(scene: Scene, reading: Reading, picture: int) -> tuple[int, ...]:
    """Which of the picture's largest objects is which of the scene's; -1 where one is missing."""
    n = scene.n_objects
    slots = [i if reading.present[picture, i] else -1 for i in range(n)]
    if scene.relation is None:
        return tuple(slots)

    def agreement(order: tuple[int, ...]) -> int:
        hits = [
            _item_hits(item, reading, picture, s)
            for item, s in zip(scene.items, order, strict=True)
        ]
        # Colour counts for more than everything else in identifying an object.
        return sum(10 * hit[0] + sum(hit) for hit in hits)

    return max(permutations(slots), key=agreement)


def _item_hits(item: Item, reading: Reading, picture: int, slot: int) -> list[bool]:
    """Whether an object has the item's colour, size, shape and texture."""
    if slot < 0:
        return [False] * len(_ITEM_ATTRIBUTES)
    return [
        bool(reading.colour[picture, slot] == list(COLOURS).index(item.colour)),
        bool(reading.size[picture, slot] == list(SIZES).index(item.size)),
        bool(reading.shape[picture, slot] == SHAPES.index(item.shape)),
        bool(reading.texture[picture, slot] == TEXTURES.index(item.texture)),
    ]


def _is_in_place(scene: Scene, centres: list[list[float] | None]) -> bool:
    if scene.place is None or centres[0] is None:
        return False
    offsets = (abs(a - b) for a, b in zip(centres[0], PLACES[scene.place], strict=True))
    return max(offsets) < _PLACE_TOLERANCE


def _is_related(scene: Scene, centres: list[list[float] | None]) -> bool:
    if scene.relation is None or centres[0] is None or centres[1] is None:
        return False
    dx, dy = (b - a for a, b in zip(centres[0], centres[1], strict=True))
    along, across = {
        "to the left of": (dx, dy),
        "to the right of": (-dx, dy),
        "above": (dy, dx),
        "below": (-dy, dx),
    }[scene.relation]
    return along > max(abs(across), _RELATION_MARGIN)
