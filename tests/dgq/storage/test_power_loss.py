"""What a file is named is on disk before its name is, and the name is before writing returns."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dgq.export.folder import folder_beside
from dgq.storage import files
from dgq.storage.files import files_written_into, write_json, written_together
from dgq.storage.sealed_archive import write_sealed
from dgq.storage.tensor_files import write_tensors


class Disk:
    """Records what is renamed before it was flushed, and which new names were not flushed since.

    Attributes:
        flushed: when what was flushed had been written last, by inode.
        unsafe: what was renamed without having been flushed after its last change.
        unnamed: new names in folders that were not flushed since.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushed: dict[int, int] = {}
        self.unsafe: list[str] = []
        self.unnamed: set[Path] = set()
        fsync, replace, rename = os.fsync, os.replace, Path.rename

        def flush(descriptor: int) -> None:
            fsync(descriptor)
            status = os.fstat(descriptor)
            self.flushed[status.st_ino] = status.st_mtime_ns
            here = {path for path in self.unnamed if path.parent.stat().st_ino == status.st_ino}
            self.unnamed -= here

        def moved(move: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            def recorded(source: Any, target: Any) -> Any:
                self.look(Path(source))
                result = move(source, target)
                self.unnamed.add(Path(target))
                return result

            return recorded

        monkeypatch.setattr(files.os, "fsync", flush)
        monkeypatch.setattr(files.os, "replace", moved(replace))
        monkeypatch.setattr(Path, "rename", moved(rename))

    def look(self, source: Path) -> None:
        """Note what is about to get another name, but would be partial after a loss of power."""
        for path in (source, *source.rglob("*")):
            status = path.stat()
            if self.flushed.get(status.st_ino) != status.st_mtime_ns:
                self.unsafe.append(path.name)


def two(folder: Path) -> None:
    with written_together(folder / "a", folder / "b") as both:
        for path in both:
            path.write_text("new")


def a_folder(folder: Path) -> None:
    with files_written_into(folder) as beside:
        for name in ("a.json", "b"):
            (beside / name).write_text("new")


def an_export(folder: Path) -> None:
    with folder_beside(folder) as beside:
        (beside / "inside").mkdir()
        (beside / "inside" / "a").write_text("new")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "json": lambda folder: write_json(folder / "a.json", {}),
    "tensors": lambda folder: write_tensors(folder / "a", {"x": torch.ones(3)}, {}),
    "checkpoint": lambda folder: write_sealed({"calibration": 1}, folder / "a"),
    "two files": two,
    "folder": a_folder,
    "export": an_export,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_content_is_on_disk_before_its_name_and_the_name_before_the_end(
    write: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    disk = Disk(monkeypatch)
    for _ in range(2):  # anew, and over an earlier one
        write(folder)
        assert disk.flushed
        assert disk.unsafe == []
        assert disk.unnamed == set()
