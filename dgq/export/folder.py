"""The folder of an export: written completely or not at all, and never over anything else."""

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dgq.errors import DGQError
from dgq.storage.files import (
    PARTIAL,
    check_writable,
    exists,
    flush,
    flush_all,
    is_abandoned,
    partial_name,
    remove_leftovers,
)

DESCRIPTION = "export.json"
"""File that describes an export; it also distinguishes an export from any other folder."""

OLD = ".old"
"""Part of the temporary name of an export that is being replaced."""


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
    beside, old = (out.with_name(partial_name(out.name, suffix)) for suffix in (".new", OLD))
    beside.mkdir(parents=True)
    try:
        yield beside
        flush_all(beside)
        if exists(out):
            out.rename(old)
        beside.rename(out)
        flush(out.parent)  # the earlier export stays until the new one has its name
    finally:
        if exists(old) and not exists(out):  # stopped between the two renames
            old.rename(out)
        for folder in (beside, old):
            shutil.rmtree(folder, ignore_errors=True)


def recover(out: Path) -> None:
    """Put back the export that a killed process was about to replace; remove what it left."""
    name = f"{glob.escape(out.name)}.*"
    for old in out.parent.glob(f".{name}{OLD}{PARTIAL}"):
        if is_abandoned(old.name) and not exists(out):
            old.rename(out)
    remove_leftovers(out.parent, name)
