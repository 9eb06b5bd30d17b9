"""Captions from a file, a folder or the hub, in any of the usual formats."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgq.captions.hub import is_hub_id, read_dataset
from dgq.captions.tables import COLUMNS, LINE_ENDS, table_captions
from dgq.errors import DGQError
from dgq.storage.files import check_regular, exists

METADATA = ("metadata.csv", "metadata.jsonl")
CELL_ENDS = re.compile(r"[,;|\t]")

FORMATS = ".txt (one caption a line), .json (COCO's captions), .jsonl, .csv or .tsv"
ENCODINGS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Encodings by byte-order mark; a file without one is UTF-8 on every system."""

OTHERS = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x1f\x8b": "compressed",
    b"PK\x03\x04": "zipped",
}


def read_captions(source: str | Path, notes: list[str] | None = None) -> list[str]:
    """Captions in the order of their source.

    Args:
        source: one of

            - ``.txt`` with one caption a line,
            - ``.json``, COCO's captions, of which the first caption of each image is taken, as
              evaluations on COCO do,
            - ``.jsonl``, an object with a caption on each line,
            - ``.csv`` with a header and a column of captions, such as an image folder's
              ``metadata.csv`` (BK-SDM's list of 30,000), or that folder,
            - ``.tsv`` without quotes, such as PartiPrompts.tsv,
            - a dataset for the ``datasets`` library: a folder, or a hub id, optionally with split
              and column (``owner/name:split:column``).
        notes: list to which counts of skipped captions are appended.

    Raises:
        DGQError: if it is missing, in another format, or holds no caption.
    """
    path = Path(source)
    if not exists(path) and is_hub_id(str(source)):
        captions = read_dataset(str(source), COLUMNS)
    elif exists(path) and path.is_dir():
        captions = _folder_captions(path)
    else:
        captions = _file_captions(path)
    return _checked(source, captions, [] if notes is None else notes)


def _checked(source: str | Path, captions: list[str], notes: list[str]) -> list[str]:
    """The captions that are not blank, checked to be valid text."""
    stripped = [caption.strip() for caption in captions]
    kept = [caption for caption in stripped if caption]
    if not kept:
        raise DGQError(f"{source} holds no captions: give one with at least one caption")
    for number, caption in enumerate(kept, start=1):
        if not _encodable(caption):
            raise DGQError(
                f"caption {number} of {source} ({caption!a:.60}) holds half of a surrogate "
                "pair, which is not a text: correct the file"
            )
    if len(kept) < len(stripped):
        notes.append(f"captions: {len(stripped) - len(kept)} of {source} are blank and left out")
    return kept


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def first_captions(path: Path, content: Any) -> list[str]:
    """The first caption of each image of a COCO captions file."""
    first: dict[int, str] = {}
    try:
        for annotation in content["annotations"]:
            first.setdefault(annotation["image_id"], annotation["caption"].strip())
    except (KeyError, TypeError, AttributeError) as error:
        raise DGQError(
            f'{path} is not in COCO\'s format ({error!r}): expected {{"annotations": '
            '[{"image_id": 1, "caption": "..."}]}'
        ) from error
    return list(first.values())


def _folder_captions(folder: Path) -> list[str]:
    """Captions of an image folder, or of a folder that ``datasets`` reads."""
    for name in METADATA:
        if (folder / name).is_file():
            return _file_captions(folder / name)
    if not any(folder.iterdir()):
        raise DGQError(f"captions {folder} cannot be read: the folder is empty")
    return read_dataset(str(folder), COLUMNS)


def _file_captions(path: Path) -> list[str]:
    text = _read_text(path)
    kind = path.suffix.lower()
    if kind in (".json", ".jsonl", ".ndjson"):
        return _json_captions(path, text, kind)
    if kind in (".csv", ".tsv"):
        return table_captions(path, text, kind)
    lines = LINE_ENDS.split(text)
    if text.endswith(("\n", "\r")):
        lines.pop()  # the last line's end begins no blank caption
    if kind == ".txt":
        _check_plain(path, text, lines)
        return lines
    raise DGQError(
        f"captions {path} cannot be read: {kind or 'a name without suffix'} does not say what is "
        f"in it; expected {FORMATS}, or the hub id of a dataset (owner/name)"
    )


def _read_text(path: Path) -> str:
    """The text of a file, in the encoding of its byte-order mark, or UTF-8."""
    try:
        check_regular(path)
        content = path.read_bytes()
    except (DGQError, OSError) as error:
        raise DGQError(f"captions {path} cannot be read ({error}): expected {FORMATS}") from error
    other = next((name for mark, name in OTHERS.items() if content.startswith(mark)), None)
    if other is not None:
        raise DGQError(f"captions {path} cannot be read, it is {other}: expected {FORMATS}")
    encoding = next((e for mark, e in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DGQError(
            f"captions {path} cannot be read, it is no {encoding} ({error.reason} at byte "
            f"{error.start}): save it as UTF-8, as {FORMATS}"
        ) from error
    if "\0" in text:
        raise DGQError(f"captions {path} cannot be read, it is binary: expected {FORMATS}")
    return text


def _json_captions(path: Path, text: str, kind: str) -> list[str]:
    """COCO's captions, or one object per line, which ``datasets`` also names .json."""
    if kind == ".json":
        try:
            return first_captions(path, json.loads(text))
        except (ValueError, RecursionError) as error:
            if not _is_object(next(_filled(text), (0, ""))[1]):
                reason = "nested too deeply" if isinstance(error, RecursionError) else repr(error)
                raise DGQError(f"{path} is not in COCO's format ({reason}): correct it") from error
    captions = []
    for number, line in _filled(text):
        content = _parsed(line)
        if not isinstance(content, dict):
            raise DGQError(
                f"line {number} of {path} is not a JSON object: expected one on each line"
            )
        captions.append(_caption_of(content, path, number))
    return captions


def _caption_of(content: dict[str, Any], path: Path, number: int) -> str:
    """The caption in a line's object; the first if there are several."""
    name = next((n for known in COLUMNS for n in content if n.strip().lower() == known), None)
    if name is None:
        found = ", ".join(content) or "nothing"
        raise DGQError(
            f"line {number} of {path} has no caption: it has {found}; expected one of "
            f"{', '.join(COLUMNS)}"
        )
    value = content[name]
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, str):
        raise DGQError(f"line {number} of {path}: {name} is {type(value).__name__}, not a caption")
    return value


def _filled(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers."""
    return ((n, line) for n, line in enumerate(LINE_ENDS.split(text), start=1) if line.strip())


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_object(line: str) -> bool:
    return isinstance(_parsed(line), dict)


def _check_plain(path: Path, text: str, lines: list[str]) -> None:
    """Raise DGQError for a file of another format that is named ``.txt``."""
    start = text.lstrip()[:200].lower()
    filled = [line.strip() for line in lines if line.strip()]
    kind = None
    if start.startswith(("<!doctype", "<html", "<?xml")):
        kind = "a web page"
    elif start.startswith("{\\rtf"):
        kind = "RTF (save it as plain text)"
    elif isinstance(_parsed(text), dict | list) or _is_object(next(_filled(text), (0, ""))[1]):
        kind = "JSON (name it .json or .jsonl)"
    elif filled and all(isinstance(_parsed(line), str) for line in filled):
        kind = "JSON texts (write them without quotes)"
    elif len(filled) > 1 and (_is_header(filled[0]) or all("\t" in line for line in filled)):
        kind = "a table (name it .csv or .tsv, with a header)"
    if kind is not None:
        raise DGQError(f"captions {path} cannot be read as text, it is {kind}: expected {FORMATS}")


def _is_header(line: str) -> bool:
    """Whether a line is a header with a column of captions, the only one or one of several."""
    cells = [cell.strip().strip('"').lower() for cell in CELL_ENDS.split(line)]
    return any(c in COLUMNS for c in cells) and not any(" " in c for c in cells)
