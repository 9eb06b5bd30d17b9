"""Archives of ``torch.save`` with a checksum of all their bytes, which are never unpickled."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dgq.errors import DGQError
from dgq.out_of_memory import is_out_of_memory
from dgq.storage.files import check_regular, written_beside

COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
CHUNK = 1 << 20
LENGTH = len("sha256:") + 64
"""Length of the comment at the end of the zip archive that ``torch.save`` writes."""


def write_sealed(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values, completely or not at all.

    Raises:
        OSError: if they cannot be written, as on a full disk.
    """
    with written_beside(path) as beside, beside.open("w+b") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # by which torch hides that of a full disk
            cause = error.__context__
            raise (cause if isinstance(cause, OSError) else error) from None
        seal_(file)


def seal_(file: BinaryIO) -> None:
    """Add a comment to a zip archive that has none: the SHA-256 of everything before it.

    The file is read again, in parts: a checkpoint is too large for further copies in memory.
    """
    file.seek(-2, os.SEEK_END)
    file.write(LENGTH.to_bytes(2, "little"))
    comment = b"sha256:" + sha256_of(file, file.tell()).encode()
    file.seek(0, os.SEEK_END)
    file.write(comment)


def is_whole(file: BinaryIO) -> bool:
    """Whether nothing in a sealed archive has changed."""
    size = file.seek(0, os.SEEK_END) - LENGTH
    if size < 2:
        return False
    file.seek(size)
    comment = COMMENT.fullmatch(file.read())
    return comment is not None and sha256_of(file, size).encode() == comment[1]


def sha256_of(file: BinaryIO, size: int) -> str:
    """Hexadecimal SHA-256 of the first ``size`` bytes of a file."""
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(min(size, CHUNK)):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a calibration's checkpoint: tensors and plain values.

    Raises:
        DGQError: if it is missing, damaged, or something else.
    """
    check_regular(path)
    with path.open("rb") as file:
        if not is_whole(file):
            raise DGQError(
                f"{path} is damaged, or not a checkpoint of a calibration: its content does not "
                "have the checksum at its end; restore it, or start a new run with --run DIR"
            )
        try:
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises all kinds, from EOFError to UnpicklingError
            if is_out_of_memory(error):
                raise
            raise DGQError(f"{path} cannot be read ({type(error).__name__}): restore it") from error
    if not isinstance(content, dict) or "calibration" not in content:
        raise DGQError(f"{path} was not written by a calibration")
    return content
