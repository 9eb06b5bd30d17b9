"""Archives of ``torch.save`` with a checksum of all their bytes, which are never unpickled."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from dgq.errors import DGQError
from dgq.storage.files import check_regular

COMMENT = re.compile(rb"sha256:([0-9a-f]{64})")
LENGTH = len("sha256:") + 64
"""Length of the comment at the end of the zip archive that ``torch.save`` writes."""


def sealed(archive: bytes) -> bytes:
    """Add a comment to a zip archive that has none: the SHA-256 of everything before it."""
    body = archive[:-2] + LENGTH.to_bytes(2, "little")
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def opened(content: bytes) -> bytes | None:
    """The archive without its seal; None if anything in it has changed."""
    body, comment = content[:-LENGTH], COMMENT.fullmatch(content[-LENGTH:])
    if comment is None or hashlib.sha256(body).hexdigest().encode() != comment[1]:
        return None
    return body[:-2] + b"\0\0"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a calibration's checkpoint: tensors and plain values.

    Raises:
        DGQError: if it is missing, damaged, or something else.
    """
    check_regular(path)
    archive = opened(path.read_bytes())
    if archive is None:
        raise DGQError(
            f"{path} is damaged, or not a checkpoint of a calibration: its content does not have "
            "the checksum at its end; restore it, or start a new run with --run DIR"
        )
    try:
        content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all kinds, from EOFError to UnpicklingError
        raise DGQError(f"{path} cannot be read ({type(error).__name__}): restore it") from error
    if not isinstance(content, dict) or "calibration" not in content:
        raise DGQError(f"{path} was not written by a calibration")
    return content
