"""The folder of an export: written completely or not at all, and never over anything else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgq.errors import DGQError
from dgq.storage.files import check_writable, exists, partial_name, write_json

DESCRIPTION = "export.json"
"""File that describes an export; it also distinguishes an export from any other folder."""


def check_free(out: Path, overwrite: bool) -> None:
    """Raise DGQError unless an export may be written to ``out``.

    Args:
        out: folder to create.
        overwrite: an earlier export may be replaced; nothing else ever is.
    """
    if not exists(out):
        check_writable(out, "--out")
        return
    if not (out / DESCRIPTION).is_file():
        raise DGQError(
            f"--out {out} exists and is not an export: name a folder that does not exist"
        )
    if not overwrite:
        raise DGQError(f"--out {out} exists: add --overwrite to replace it, or name another folder")
    check_writable(out.parent, "--out")


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that replaces it when the block ends without error."""
    beside, old = (out.with_name(partial_name(out.name, suffix)) for suffix in (".new", ".old"))
    beside.mkdir(parents=True)
    try:
        yield beside
        if exists(out):
            out.rename(old)
        beside.rename(out)
    finally:
        for folder in (beside, old):
            shutil.rmtree(folder, ignore_errors=True)


def describe(folder: Path, content: dict[str, Any]) -> None:
    """Write the description of an export."""
    write_json(folder / DESCRIPTION, content)
