"""Captions from a file: plain text, or COCO's JSON."""

import json
from pathlib import Path

from dgq.errors import DGQError


def read_captions(path: Path) -> list[str]:
    """Captions of a file, in its order.

    Args:
        path: text with one caption a line, or COCO's captions JSON, of which the first caption of
            each image is taken, as evaluations on COCO do.

    Raises:
        DGQError: if the file is missing, of another format, or holds no caption.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DGQError(
            f"captions {path} cannot be read ({error}): expected COCO's captions JSON, or a text "
            "file with one caption a line"
        ) from error
    lines = first_captions(path, text) if path.suffix == ".json" else text.splitlines()
    captions = [line.strip() for line in lines if line.strip()]
    if not captions:
        raise DGQError(f"{path} holds no captions: give a file with at least one")
    return captions


def first_captions(path: Path, text: str) -> list[str]:
    """The first caption of each image of a COCO captions file."""
    first: dict[int, str] = {}
    try:
        for annotation in json.loads(text)["annotations"]:
            first.setdefault(annotation["image_id"], annotation["caption"].strip())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DGQError(
            f'{path} is not in COCO\'s format ({error!r}): expected {{"annotations": '
            '[{"image_id": 1, "caption": "..."}]}'
        ) from error
    return list(first.values())
