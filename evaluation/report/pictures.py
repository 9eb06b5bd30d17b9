"""Images of the same prompts side by side, small enough for a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from evaluation.images.files import read_image
from evaluation.images.store import ImageStore
from evaluation.models import Model
from evaluation.report.charts import data_uri

N_PROMPTS = 12
SIDE = 256
"""Size in pixels at which larger images are shown."""

PIXELATED_BELOW = 128
"""Size below which images are enlarged by the browser, with hard pixels."""

EXPLANATION = "explanation"
"""Name of the folder in a run that holds the pictures of ``explain.py``, if there are any."""


@dataclass(frozen=True)
class Shown:
    """One picture.

    Args:
        label: label of the model.
        uri: the picture as a data URI.
        pixelated: whether to enlarge it with hard pixels.
    """

    label: str
    uri: str
    pixelated: bool


def compared_pictures(stores: Mapping[str, ImageStore]) -> list[tuple[str, list[Shown]]]:
    """The first prompts, each with its images in full precision and from every model.

    Args:
        stores: images of each model by its name, full precision first.
    """
    captions = next(iter(stores.values())).prompts[:N_PROMPTS]
    return [
        (caption, [_shown(name, store.path(index)) for name, store in stores.items()])
        for index, caption in enumerate(captions)
    ]


def explaining_pictures(models: list[Model]) -> list[Shown]:
    """Pictures of ranges, scores, sensitivity and costs found in the models' runs."""
    folders = [(m.name, m.run / EXPLANATION) for m in models if m.run is not None]
    return [
        Shown(f"{name}: {file.stem}", data_uri(file.read_bytes(), "image/png"), False)
        for name, folder in folders
        for file in sorted(folder.glob("*.png"))
    ]


def _shown(name: str, path: Path) -> Shown:
    image = read_image(path)
    pixelated = max(image.size) < PIXELATED_BELOW
    image.thumbnail((SIDE, SIDE))
    return Shown(name, _encoded(image), pixelated)


def _encoded(image: Image.Image) -> str:
    content = BytesIO()
    if max(image.size) < PIXELATED_BELOW:
        image.save(content, format="png")
        return data_uri(content.getvalue(), "image/png")
    image.save(content, format="jpeg", quality=90)
    return data_uri(content.getvalue(), "image/jpeg")
