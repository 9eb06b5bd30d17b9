"""Pictures side by side, each under the name of the model that drew it."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from evaluation.images.grid import BACKGROUND, FONT_SIZE, GAP, INK, LINE_HEIGHT, Font, wrap

SMALLEST_SIDE = 256
"""Side in pixels from which pictures are shown unchanged; smaller ones are enlarged."""


def side_by_side(columns: Mapping[str, Sequence[Image.Image]], prompt: str) -> Image.Image:
    """A column for each model, a row for each picture.

    Args:
        columns: pictures by heading; the same number in each column, all of one size.
        prompt: text below the pictures.
    """
    font = ImageFont.load_default(FONT_SIZE)
    first = next(iter(columns.values()))
    width, height = (side * factor_of(first[0]) for side in first[0].size)
    above = [wrap(label, font, width) for label in columns]
    below = wrap(prompt, font, len(columns) * (width + GAP) - GAP)
    top = GAP + max(map(len, above)) * LINE_HEIGHT
    bottom = top + len(first) * (height + GAP)
    size = GAP + len(columns) * (width + GAP), bottom + len(below) * LINE_HEIGHT + GAP
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, (lines, pictures) in enumerate(zip(above, columns.values(), strict=True)):
        x = GAP + column * (width + GAP)
        write(draw, (x, GAP), lines, font)
        for row, picture in enumerate(pictures):
            shown = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(shown, (x, top + row * (height + GAP)))
    write(draw, (GAP, bottom), below, font)
    return sheet


def factor_of(picture: Image.Image) -> int:
    """How many times a picture is enlarged, so that every pixel stays a square of one colour."""
    return max(1, SMALLEST_SIDE // max(picture.size))


def write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str], font: Font
) -> None:
    """Write lines from a place downwards."""
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * LINE_HEIGHT), line, INK, font)
