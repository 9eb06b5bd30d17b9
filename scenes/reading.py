"""Read what a picture shows: background, objects and their attributes, without a network.

First the palette tells background from foreground; then connected components are found, and for
each the best of all colours and textures, and given these the best of all shapes, sizes and
positions. The vocabulary is closed, so each step is an exhaustive search.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scenes.renderer import BACKGROUND_PALETTE, PALETTE, coverage, wallpapers
from scenes.vocabulary import MAX_OBJECTS, SHAPES, SIZES, TEXTURE_DARKNESS, TEXTURES

SLOTS = MAX_OBJECTS + 1
"""Objects looked for; one more than a scene can have, to notice a surplus."""

_FOREGROUND_DISTANCE = 0.33  # in RGB; the closest colour and background are 0.63 apart
_SMALLEST_AREA = 12 / 32**2  # the smallest object covers 35 / 32**2
_WINDOW = 18 / 32  # around one object, with a margin
_OFFSETS = torch.linspace(-1.5, 1.5, 7) / 32  # from the middle of the window to its object


@dataclass(frozen=True)
class Reading:
    """What pictures show; indices are into the vocabulary's tables.

    `background` and `count` are [pictures]; `present`, `shape`, `size`, `colour`, `texture` are
    [pictures, SLOTS], the largest object first; `centre` is [pictures, SLOTS, 2] as (x, y).
    """

    background: Tensor
    count: Tensor
    present: Tensor
    shape: Tensor
    size: Tensor
    colour: Tensor
    texture: Tensor
    centre: Tensor


def read(images: Tensor) -> Reading:
    """Read pictures, [pictures, 3, side, side] in [0, 1].

    Raises:
        ValueError: the tensor is not a batch of square pictures of at least 24 pixels.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"expected pictures [n, 3, side, side], got {list(images.shape)}")
    if images.shape[-1] < 24:
        raise ValueError(f"pictures of {images.shape[-1]} pixels are too small; expected >= 24")
    images = images.detach().float().cpu()
    parts = [_read(part) for part in images.split(250)] or [_read(images)]
    return Reading(**{key: torch.cat([vars(p)[key] for p in parts]) for key in vars(parts[0])})


def find_background(images: Tensor) -> Tensor:
    """The background each picture is closest to, [pictures]."""
    distances = [_distance(images, colour) for colour in BACKGROUND_PALETTE]
    return torch.stack([d.clamp(max=0.3).mean((1, 2)) for d in distances]).argmin(0)


def connected_components(mask: Tensor) -> Tensor:
    """Number connected regions (by edges, not corners), [pictures, side, side] integers.

    The number is one more than the largest pixel index in the region; 0 is outside.
    """
    side = mask.shape[-1]
    label = torch.arange(1.0, side * side + 1).view(1, 1, side, side) * mask[:, None]
    while True:
        wide = F.max_pool2d(label, (1, 3), 1, (0, 1))
        tall = F.max_pool2d(label, (3, 1), 1, (1, 0))
        spread = torch.maximum(wide, tall) * mask[:, None]
        if torch.equal(spread, label):
            return label[:, 0].long()
        label = spread


def _read(images: Tensor) -> Reading:
    n, side = len(images), images.shape[-1]
    background = find_background(images)
    backdrop = BACKGROUND_PALETTE[background]
    label = connected_components(_distance(images, backdrop) > _FOREGROUND_DISTANCE)
    area = torch.zeros(n, side * side + 1).scatter_add_(
        1, label.flatten(1), torch.ones(n, side * side)
    )
    area[:, 0] = 0
    largest = area.topk(SLOTS, dim=1)
    present = largest.values >= _SMALLEST_AREA * side**2
    picture, slot = present.nonzero(as_tuple=True)
    found = _read_objects(images, backdrop, label, picture, largest.indices[picture, slot])
    slots: dict[str, Tensor] = {}
    for key, values in found.items():
        slots[key] = torch.zeros(n, SLOTS, *values.shape[1:], dtype=values.dtype)
        slots[key][picture, slot] = values
    count = (area >= _SMALLEST_AREA * side**2).sum(1)
    return Reading(background=background, count=count, present=present, **slots)


def _read_objects(
    images: Tensor, backdrop: Tensor, label: Tensor, picture: Tensor, number: Tensor
) -> dict[str, Tensor]:
    """Attributes of the objects with the given numbers in the given pictures."""
    side = images.shape[-1]
    own = label[picture] == number[:, None, None]
    corner, window = _windows(own, side)
    # One pixel beyond the region, where the object covers pixels partly.
    near = F.max_pool2d(own[:, None].float(), 3, 1, 1)
    other = (label[picture] > 0) & ~own
    near = _crop(near * ~other[:, None], corner, window)[:, 0]
    pictures = _crop(images[picture], corner, window)
    paint, alpha = _fit_paint(pictures, backdrop[picture], near, corner, side)
    templates = _templates(side, window)
    flat = (alpha * near).flatten(1)
    distance = templates.square().sum(1) - 2 * flat @ templates.T
    best = distance.argmin(1)
    n_offsets = len(_OFFSETS)
    kind, offset = best // n_offsets**2, best % n_offsets**2
    moved = torch.stack([_OFFSETS[offset % n_offsets], _OFFSETS[offset // n_offsets]], 1)
    return {
        "colour": paint // len(TEXTURES),
        "texture": paint % len(TEXTURES),
        "shape": kind // len(SIZES),
        "size": kind % len(SIZES),
        "centre": (corner + window / 2) / side + moved,
    }


def _fit_paint(
    pictures: Tensor, backdrop: Tensor, near: Tensor, corner: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """The paint (colour and texture) that explains each window best.

    A pixel is a blend of backdrop and paint. Returns the index of the paint and how much
    of each pixel it covers, [objects, window, window].
    """
    window = near.shape[-1]
    n = len(pictures)
    dark = wallpapers(side).expand(n, -1, -1, -1)
    dark = _crop(dark, corner, window)
    rest = pictures - backdrop[:, :, None, None]
    best_paint = torch.zeros(n, dtype=torch.long)
    best_error = torch.full((n,), torch.inf)
    best_alpha = torch.zeros(n, window, window)
    for index in range(len(PALETTE) * len(TEXTURES)):
        colour, texture = PALETTE[index // len(TEXTURES)], index % len(TEXTURES)
        shade = 1 - (1 - TEXTURE_DARKNESS) * dark[:, texture, None]
        paint = colour[:, None, None] * shade - backdrop[:, :, None, None]
        alpha = ((rest * paint).sum(1) / paint.square().sum(1)).clamp(0, 1)
        squares = (rest - alpha[:, None] * paint).square().sum(1)
        # Partly covered pixels are plausible only at the edge.
        error = ((squares + 0.1 * alpha * (1 - alpha)) * near).sum((1, 2))
        better = error < best_error
        best_paint[better] = index
        best_error = torch.where(better, error, best_error)
        best_alpha = torch.where(better[:, None, None], alpha, best_alpha)
    return best_paint, best_alpha


def _windows(own: Tensor, side: int) -> tuple[Tensor, int]:
    """Top left corners (x, y) of windows around regions, [regions, 2], and the windows' side."""
    window = round(_WINDOW * side)
    ends = []
    for axis in (1, 2):
        line = own.any(axis).float()
        first = line.argmax(1)
        last = side - 1 - line.flip(1).argmax(1)
        ends.append(((first + last + 1) / 2 - window / 2).round().long())
    return torch.stack(ends, 1), window


def _crop(pictures: Tensor, corner: Tensor, window: int) -> Tensor:
    """Cut a window out of each picture, [n, channels, window, window]; 0 beyond the edge."""
    padded = F.pad(pictures, (window, window, window, window))
    at = torch.arange(window) + window
    x = (corner[:, 0, None] + at)[:, None, None, :]
    y = (corner[:, 1, None] + at)[:, None, :, None]
    n, channels = pictures.shape[:2]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], y, x]


@lru_cache(maxsize=4)
def _templates(side: int, window: int) -> Tensor:
    """Coverage of every shape and size (size fastest) at every offset, [templates, pixels]."""
    at = (torch.arange(window) + 0.5 - window / 2) / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    dy, dx = torch.meshgrid(_OFFSETS, _OFFSETS, indexing="ij")
    kinds = []
    for shape in range(len(SHAPES)):
        for radius in SIZES.values():
            n = dx.numel()
            moved = (x - dx.reshape(-1, 1, 1), y - dy.reshape(-1, 1, 1))
            radii = torch.full((n, 1, 1), radius)
            kinds.append(coverage(*moved, torch.full((n,), shape), radii, side).flatten(1))
    return torch.cat(kinds)


def _distance(images: Tensor, colour: Tensor) -> Tensor:
    """Euclidean distance in RGB to one colour, or to one for each picture, [n, side, side]."""
    return (images - colour.reshape(-1, 3, 1, 1)).square().sum(1).sqrt()
