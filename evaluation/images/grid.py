"""A picture for visual comparison: the same prompts with and without quantization."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from evaluation.images.files import encoded, read_image, save_image
from evaluation.images.store import ImageStore

COLUMNS = 8
CELL = 192
GAP = 8
LABEL_WIDTH = 120
FONT_SIZE = 14
LINE_HEIGHT = 18
BACKGROUND = "white"
INK = "black"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_grid(path: Path, stores: Mapping[str, ImageStore], captions: Sequence[str]) -> None:
    """Write a picture of the first prompts, with a row for each model.

    Args:
        path: file to write.
        stores: images of each model by its name, full precision first.
        captions: captions of the images.
    """
    shown = captions[:COLUMNS]
    rows = {
        name: [read_image(file) for file in store.paths[: len(shown)]]
        for name, store in stores.items()
    }
    save_image(path, encoded(draw_grid(rows, shown)))


def draw_grid(rows: Mapping[str, Sequence[Image.Image]], captions: Sequence[str]) -> Image.Image:
    """Rows of images with their label on the left and captions under the columns.

    Args:
        rows: images by label, in each row as many as there are captions.
        captions: one under each column.
    """
    font = ImageFont.load_default(FONT_SIZE)
    lines = [wrap(caption, font, CELL) for caption in captions]
    width = LABEL_WIDTH + len(captions) * (CELL + GAP) + GAP
    images_height = len(rows) * (CELL + GAP) + GAP
    height = images_height + max(map(len, lines), default=0) * LINE_HEIGHT + GAP
    grid = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(grid)
    for row, (label, images) in enumerate(rows.items()):
        y = GAP + row * (CELL + GAP)
        text = "\n".join(wrap(label, font, LABEL_WIDTH - 2 * GAP))
        draw.multiline_text((GAP, y + CELL // 2), text, INK, font, anchor="lm")
        for column, image in enumerate(images):
            grid.paste(fit(image), (LABEL_WIDTH + column * (CELL + GAP), y))
    for column, wrapped in enumerate(lines):
        x = LABEL_WIDTH + column * (CELL + GAP)
        for number, line in enumerate(wrapped):
            draw.text((x, images_height + number * LINE_HEIGHT), line, INK, font)
    return grid


def fit(image: Image.Image) -> Image.Image:
    """The image within a cell: small images with enlarged pixels, large ones smoothed."""
    factor = CELL / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    enlarged = factor > 1
    return image.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` pixels, between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
