"""What a captioned scene can contain, and where and how large things are drawn.

Lengths are fractions of the canvas, which is a unit square with the origin at its top left.
Colours are RGB in [0, 1]. The order of every table is the order of the indices used elsewhere.
"""

from typing import Final

SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross", "bar")

COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.00),
    "yellow": (0.95, 0.90, 0.10),
    "green": (0.05, 0.60, 0.15),
    "cyan": (0.05, 0.80, 0.90),
    "blue": (0.15, 0.20, 0.90),
    "purple": (0.60, 0.10, 0.75),
    "brown": (0.50, 0.28, 0.10),
}

BACKGROUNDS: Final[dict[str, tuple[float, float, float]]] = {
    "white": (1.00, 1.00, 1.00),
    "grey": (0.62, 0.62, 0.62),
    "pink": (1.00, 0.72, 0.84),
    "mint": (0.66, 0.96, 0.80),
}

# Half the width of an object.
SIZES: Final[dict[str, float]] = {"small": 4.0 / 32, "large": 6.5 / 32}

# The first texture is the default and is not mentioned in captions.
TEXTURES: Final = ("plain", "striped", "dotted")
# Each texture is cut from one wallpaper of this period that spans the whole canvas, so a textured
# region looks the same wherever it lies. Its dark parts are the colour times the factor.
TEXTURE_PERIOD: Final = 1 / 8
TEXTURE_DARKNESS: Final = 0.3

PLACES: Final[dict[str, tuple[float, float]]] = {
    "in the centre": (0.5, 0.5),
    "in the top left": (0.25, 0.25),
    "in the top right": (0.75, 0.25),
    "in the bottom left": (0.25, 0.75),
    "in the bottom right": (0.75, 0.75),
}

# Centres of the first and of the second object.
RELATIONS: Final[dict[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "to the left of": ((0.25, 0.5), (0.75, 0.5)),
    "to the right of": ((0.75, 0.5), (0.25, 0.5)),
    "above": ((0.5, 0.25), (0.5, 0.75)),
    "below": ((0.5, 0.75), (0.5, 0.25)),
}

COUNTS: Final[dict[str, int]] = {"two": 2, "three": 3, "four": 4}
MAX_OBJECTS: Final = max(COUNTS.values())
# Counted objects lie in distinct quadrants.
QUADRANTS: Final = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))

# Objects are displaced by up to this much in x and in y.
JITTER: Final = 0.5 / 32


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def words() -> list[str]:
    """Every word that occurs in captions, sorted."""
    phrases = [
        *("a", "on a", "background"),
        *SHAPES,
        *(plural(shape) for shape in SHAPES),
        *COLOURS,
        *BACKGROUNDS,
        *SIZES,
        *TEXTURES[1:],
        *PLACES,
        *RELATIONS,
        *COUNTS,
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})
