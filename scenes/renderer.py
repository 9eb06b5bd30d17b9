"""Scenes drawn as pictures: signed distances, anti-aliased, a whole batch at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scenes.grammar import Scene, parse_caption
from scenes.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    JITTER,
    MAX_OBJECTS,
    PLACES,
    QUADRANTS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURE_DARKNESS,
    TEXTURE_PERIOD,
    TEXTURES,
)

PALETTE = torch.tensor(list(COLOURS.values()))
"""RGB of the object colours, [colours, 3]."""
BACKGROUND_PALETTE = torch.tensor(list(BACKGROUNDS.values()))
"""RGB of the backgrounds, [backgrounds, 3]."""


@dataclass(frozen=True)
class Drawing:
    """Scenes as tensors: indices into the vocabulary's tables and positions on the canvas.

    `shape`, `colour`, `texture` are [scenes, MAX_OBJECTS] integers, `radius` is the same shape
    (0 where there is no object), `centre` is [scenes, MAX_OBJECTS, 2] as (x, y), `background` is
    [scenes] integers.
    """

    shape: Tensor
    colour: Tensor
    texture: Tensor
    radius: Tensor
    centre: Tensor
    background: Tensor


def render(captions: Sequence[str], size: int, seed: int) -> Tensor:
    """Draw the pictures that captions describe, [captions, 3, size, size] in [0, 1].

    The seed decides the objects' exact positions.

    Raises:
        ValueError: a caption is outside the grammar, or the size is not positive.
    """
    scenes = [parse_caption(caption) for caption in captions]
    return draw(lay_out(scenes, torch.Generator().manual_seed(seed)), size)


def lay_out(scenes: Sequence[Scene], generator: torch.Generator) -> Drawing:
    """Place the objects of scenes, each displaced at random by up to `JITTER`."""
    rows = [_pad([_object_row(scene, i) for i in range(scene.n_objects)]) for scene in scenes]
    table = torch.tensor(rows).reshape(len(scenes), MAX_OBJECTS, 4)
    counted = torch.tensor([scene.count is not None for scene in scenes], dtype=torch.bool)
    fixed = torch.tensor([_pad_centres(scene) for scene in scenes]).reshape(-1, MAX_OBJECTS, 2)
    order = torch.rand(len(scenes), MAX_OBJECTS, generator=generator).argsort(1)
    centre = torch.where(counted[:, None, None], torch.tensor(QUADRANTS)[order], fixed)
    jitter = (torch.rand(centre.shape, generator=generator) * 2 - 1) * JITTER
    names = list(BACKGROUNDS)
    return Drawing(
        shape=table[..., 0].long(),
        colour=table[..., 1].long(),
        texture=table[..., 2].long(),
        radius=table[..., 3],
        centre=centre + jitter,
        background=torch.tensor([names.index(s.background) for s in scenes], dtype=torch.long),
    )


def draw(drawing: Drawing, size: int) -> Tensor:
    """Pictures of drawings, [scenes, 3, size, size] in [0, 1]."""
    if size < 1:
        raise ValueError(f"pictures must be at least 1 pixel wide, got {size}")
    x, y = pixel_grid(size)
    pictures = BACKGROUND_PALETTE[drawing.background][:, :, None, None].expand(-1, 3, size, size)
    dark = wallpapers(size)
    for i in range(MAX_OBJECTS):
        centre = drawing.centre[:, i, :, None, None]
        radius = drawing.radius[:, i, None, None]
        alpha = coverage(x - centre[:, 0], y - centre[:, 1], drawing.shape[:, i], radius, size)
        paint = PALETTE[drawing.colour[:, i]][:, :, None, None]
        paint = paint * (1 - (1 - TEXTURE_DARKNESS) * dark[drawing.texture[:, i]][:, None])
        pictures = torch.lerp(pictures, paint, (alpha * (radius > 0))[:, None])
    return pictures.contiguous()


def pixel_grid(size: int) -> tuple[Tensor, Tensor]:
    """x and y of the pixels' centres, [size, size] each."""
    at = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(at, at, indexing="ij")
    return x, y


def coverage(x: Tensor, y: Tensor, shape: Tensor, radius: Tensor, size: int) -> Tensor:
    """How much of each pixel an object covers, in [0, 1].

    Args:
        x: offset from the object's centre, [objects, height, width], like `y`.
        shape: index into `SHAPES`, [objects].
        radius: half the object's width, [objects, 1, 1]; 0 is allowed.
        size: pixels per unit of length.
    """
    distance = torch.empty_like(x)
    for index, name in enumerate(SHAPES):
        chosen = shape == index
        distance[chosen] = signed_distance(
            name, x[chosen].abs(), y[chosen], radius.expand_as(x)[chosen]
        )
    return (0.5 - distance * size).clamp(0, 1)


def signed_distance(shape: str, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Distance to a shape's outline, negative inside; `x` is not negative, y points down."""
    v = y.abs()
    if shape == "circle":
        return torch.hypot(x, v) - r
    if shape == "square":
        return torch.maximum(x, v) - 0.92 * r
    if shape == "triangle":
        # Corners (-1, 0.9), (1, 0.9) and (0, -1), times the radius.
        side = (1.9 * x - y - r) / (1.9**2 + 1) ** 0.5
        return torch.maximum(y - 0.9 * r, side)
    if shape == "diamond":
        return (x + v - 1.05 * r) / 2**0.5
    if shape == "cross":
        arm = torch.maximum(x - r, v - 0.34 * r)
        return torch.minimum(arm, torch.maximum(v - r, x - 0.34 * r))
    if shape == "bar":
        return torch.maximum(x - r, v - 0.55 * r)
    raise ValueError(f"unknown shape {shape!r}; expected one of {', '.join(SHAPES)}")


def wallpapers(size: int) -> Tensor:
    """How dark each texture is at each pixel, [textures, size, size] in [0, 1]."""
    x, y = pixel_grid(size)
    # Offsets from the middle of the wallpaper's nearest tile.
    u, v = ((at % TEXTURE_PERIOD) - TEXTURE_PERIOD / 2 for at in (x, y))
    distances = {
        "plain": torch.ones_like(x),
        "striped": v.abs() - TEXTURE_PERIOD / 4,
        "dotted": torch.hypot(u, v) - TEXTURE_PERIOD * 0.33,
    }
    return torch.stack([(0.5 - distances[name] * size).clamp(0, 1) for name in TEXTURES])


def _object_row(scene: Scene, index: int) -> list[float]:
    item = scene.objects[index]
    return [
        SHAPES.index(item.shape),
        list(COLOURS).index(item.colour),
        TEXTURES.index(item.texture),
        SIZES[item.size],
    ]


def _pad(rows: list[list[float]]) -> list[list[float]]:
    return rows + [[0.0, 0.0, 0.0, 0.0]] * (MAX_OBJECTS - len(rows))


def _pad_centres(scene: Scene) -> list[tuple[float, float]]:
    if scene.place is not None:
        centres = [PLACES[scene.place]]
    else:
        centres = list(RELATIONS[scene.relation]) if scene.relation is not None else []
    return centres + [(0.5, 0.5)] * (MAX_OBJECTS - len(centres))
