"""Folders that appear complete or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(place: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces the old one if all went well."""
    new, old = (place.with_name(f".{place.name}.{state}") for state in ("new", "old"))
    if old.exists() and not place.exists():  # killed between the two renames below
        os.rename(old, place)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if place.exists():
        os.rename(place, old)
    os.rename(new, place)
    shutil.rmtree(old, ignore_errors=True)
