"""Captions from a file, a folder or the hub, whatever of the usual formats they are in."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgq.errors import DGQError
from dgq.hub_captions import is_hub_id, read_dataset

COLUMNS = ("text", "caption", "prompt", "captions", "sentence")
"""Names that a column of captions has, in any spelling."""

METADATA = "metadata.csv"


def read_captions(source: str | Path) -> list[str]:
    """Captions in the order of their source.

    Args:
        source: one of

            - text with one caption a line,
            - COCO's captions JSON, of which the first caption of each image is taken, as
              evaluations on COCO do,
            - CSV with a header and a column of captions, such as an image folder's
              ``metadata.csv`` (BK-SDM's list of 30,000), or that folder,
            - TSV without quotes, such as PartiPrompts.tsv,
            - a dataset for the ``datasets`` library: a folder, or a hub id, optionally with split
              and column (``owner/name:split:column``).

    Raises:
        DGQError: if it is missing, of another format, or holds no caption.
    """
    path = Path(source)
    if not path.exists() and is_hub_id(str(source)):
        captions = read_dataset(str(source), COLUMNS)
    elif path.is_dir():
        captions = _folder_captions(path)
    else:
        captions = _file_captions(path)
    captions = [caption.strip() for caption in captions if caption.strip()]
    if not captions:
        raise DGQError(f"{source} holds no captions: give one with at least one caption")
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


def _folder_captions(folder: Path) -> list[str]:
    """Captions of an image folder, or of a folder that ``datasets`` reads."""
    if (folder / METADATA).is_file():
        return _file_captions(folder / METADATA)
    if not any(folder.iterdir()):
        raise DGQError(f"captions {folder} cannot be read: the folder is empty")
    return read_dataset(str(folder), COLUMNS)


def _file_captions(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DGQError(
            f"captions {path} cannot be read ({error}): expected COCO's captions JSON, CSV, TSV, "
            "or a text file with one caption a line; or the hub id of a dataset (owner/name)"
        ) from error
    if path.suffix == ".json":
        return first_captions(path, text)
    if path.suffix == ".csv":
        return _column(path, csv.DictReader(text.splitlines(keepends=True), strict=True))
    if path.suffix == ".tsv":
        lines = text.splitlines()
        return _column(path, csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return text.splitlines()


def _column(path: Path, rows: "csv.DictReader[str]") -> list[str]:
    """The column of captions of a table, every row of which must have one."""
    try:
        header = list(rows.fieldnames or [])
        name = next((n for known in COLUMNS for n in header if n.strip().lower() == known), None)
        if name is None:
            raise DGQError(
                f"{path} has no column of captions: it has {', '.join(header) or 'no header'}; "
                f"expected one of {', '.join(COLUMNS)}"
            )
        return [_cell(path, row, name, number) for number, row in enumerate(rows, start=2)]
    except csv.Error as error:
        raise DGQError(f"{path} is no table ({error}, line {rows.line_num}): mend it") from error


def _cell(path: Path, row: Mapping[str, Any], name: str, number: int) -> str:
    value = row[name]
    if value is None:
        raise DGQError(f"row {number} of {path} has no {name}: it is cut short; mend the file")
    return str(value)
