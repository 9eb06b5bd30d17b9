"""Files of pictures, which never replace existing ones unless the user says so."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import BytesIO
from itertools import count
from pathlib import Path

from PIL import Image

from dgq.errors import DGQError
from dgq.storage.files import check_writable, exists
from evaluation.images.files import save_image
from evaluation.one_prompt.settings import PictureSettings

FOLDER = Path("outputs/pictures")
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
QUALITY = 95
"""Quality of JPEG and WebP."""

LONGEST_NAME = 60


def check_output(settings: PictureSettings) -> None:
    """Raise DGQError unless the pictures can be written without overwriting anything."""
    file = settings.output
    if file is None:
        check_writable(FOLDER, "the folder of pictures,")
        return
    if file.suffix.lower() not in FORMATS:
        raise DGQError(f"--output {file} is not a picture's name: end it in {', '.join(FORMATS)}")
    if file.is_dir():
        raise DGQError(f"--output {file} is a folder: name a file")
    check_writable(file.parent, "--output's folder")
    for path in files_of(file, settings):
        if exists(path) and not settings.overwrite:
            raise already_there(path)


def write_pictures(pictures: Sequence[Image.Image], settings: PictureSettings) -> list[Path]:
    """Write pictures, each completely or not at all; returns their files.

    Raises:
        DGQError: if a file was created by others while they were drawn.
    """
    file = settings.output or free_file(settings)
    files = files_of(file, settings)
    for path, picture in zip(files, pictures, strict=True):
        content = BytesIO()
        picture.save(content, format=FORMATS[path.suffix.lower()], quality=QUALITY)
        with nullcontext() if settings.overwrite else reserved(path):
            save_image(path, content.getvalue())
    return files


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Reserve a name for the block, which creates the file; raises DGQError if it is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.open("xb").close()
    except FileExistsError as error:
        raise already_there(path) from error
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def already_there(path: Path) -> DGQError:
    """The one-line error for an existing file."""
    return DGQError(f"{path} exists: choose another --output, or --overwrite to replace it")


def files_of(file: Path, settings: PictureSettings) -> list[Path]:
    """One file, or one for each picture with the number of its noise in its name."""
    if settings.compare or settings.number == 1:
        return [file]
    indices = range(settings.index, settings.index + settings.number)
    return [file.with_stem(f"{file.stem}-{index}") for index in indices]


def free_file(settings: PictureSettings) -> Path:
    """An unused file name made from the prompt and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", settings.prompt.lower()).strip("-")[:LONGEST_NAME]
    parts = [words.strip("-") or "picture", f"seed{settings.seed}"]
    parts += [f"noise{settings.index}"] if settings.index and settings.number == 1 else []
    parts += ["compared"] if settings.compare else []
    for n in count(1):
        stem = "-".join(parts) + (f"_{n}" if n > 1 else "")
        file = FOLDER / f"{stem}.png"
        if not any(exists(path) for path in files_of(file, settings)):
            return file
    raise AssertionError
