"""Files are written whole or not at all, and damaged ones are named."""

import errno
import hashlib
import json
import os
import platform
import resource
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from dgq.errors import DGQError
from dgq.pipelines.weight_files import tensor_names
from dgq.storage import files
from dgq.storage.files import (
    check_writable,
    files_written_into,
    read_json,
    remove_leftovers,
    sha256_of,
    write_json,
    written_beside,
)
from dgq.storage.tensor_files import (
    read_sealed_tensors,
    read_tensors,
    save_tensors,
    write_sealed_tensors,
    write_tensors,
)


def interrupted(path: Path) -> None:
    with written_beside(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("old", [None, "old"])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_finished_write_replaces_the_old_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.json"
    for content in ({"a": 1}, {"b": [2, 3]}):
        write_json(path, content)
    assert json.loads(path.read_text()) == {"b": [2, 3]}
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_folders_descriptions_follow_what_they_describe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the moving ends, a description is never newer than a file that it describes."""
    names = {"a.json", "a.safetensors", "b.json", "b.safetensors", "z.safetensors"}
    moved: list[str] = []
    stock = os.replace

    def replace(source: Path, target: Path) -> None:
        moved.append(target.name)
        stock(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    with files_written_into(tmp_path / "folder") as beside:
        for name in names:
            (beside / name).write_text("x")
    assert set(moved) == names
    assert [name.endswith(".json") for name in moved] == [False, False, False, True, True]


def test_a_folder_may_be_the_only_place_on_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a volume of a container: nothing moves into it from outside, nor is made beside it."""
    volume = tmp_path / "volume"
    volume.mkdir()
    stock, stock_mkdir = os.replace, Path.mkdir

    def replace(source: Path, target: Path) -> None:
        if volume not in source.parents:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        stock(source, target)

    def mkdir(folder: Path, *args: Any, **named: Any) -> None:
        if folder != volume and volume not in folder.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        stock_mkdir(folder, *args, **named)

    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with files_written_into(volume) as beside:
        (beside / "a.json").write_text("{}")
    assert [path.name for path in volume.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not open folders")
@pytest.mark.parametrize(
    ("number", "of_folders", "written"),
    [(errno.EINVAL, True, True), (errno.EIO, True, False), (errno.EINVAL, False, False)],
)
def test_a_file_system_may_flush_no_folders(
    number: int, of_folders: bool, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CIFS; an error of the disk, or of a file, is one."""
    stock = os.fsync

    def fsync(descriptor: int) -> None:
        if S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))
        stock(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    outcome = nullcontext() if written else pytest.raises(OSError, match=os.strerror(number))
    with outcome:
        write_json(tmp_path / "a.json", {})
    with outcome, files_written_into(tmp_path / "folder") as beside:
        (beside / "b.json").write_text("{}")
    assert (tmp_path / "folder" / "b.json").exists() == written


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_written_files_have_the_permissions_of_any_other(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a", {"x": torch.ones(3)}, {})
        write_json(tmp_path / "b", {})
        with files_written_into(tmp_path / "folder") as beside:
            save_tensors(beside / "c", {"x": torch.ones(3)}, {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes.pop("folder") == 0o777 & ~mask
    assert modes == dict.fromkeys("abc", 0o666 & ~mask)


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(7, dtype=torch.uint8)}
    write_tensors(path, tensors, {"format": "x"})
    found, metadata = read_tensors(path)
    assert metadata == {"format": "x"}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("keep", [0, 4, 40, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.randn(300)}, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(DGQError, match=r"t\.safetensors is damaged"):
        read_tensors(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DGQError, match=r"none\.safetensors does not exist"):
        read_tensors(tmp_path / "none.safetensors")


def test_the_hash_is_that_of_the_whole_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_what_killed_processes_of_this_machine_left_is_removed(tmp_path: Path) -> None:
    own = f".f.{platform.node()}-{os.getpid()}-abcd.partial"
    gone = f".f.{platform.node()}-{2**22 + 1}-abcd.partial"
    others = {".f.elsewhere-1-abcd.partial", f".f.{platform.node()}-mine-abcd.partial"}
    for name in (own, gone, *others, ".f.partial", "f.partial"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {own, *others, ".f.partial", "f.partial"}
    remove_leftovers(tmp_path, "f.*", locked=True)
    assert {p.name for p in tmp_path.iterdir()} == {".f.partial", "f.partial"}
    remove_leftovers(tmp_path / "missing")


@pytest.mark.parametrize("locked", [False, True])
def test_temporary_folders_are_removed_when_their_process_has_ended(
    tmp_path: Path, locked: bool
) -> None:
    own = f".model.{platform.node()}-{os.getpid()}-abcd.partial"
    gone = f".model.{platform.node()}-{2**22 + 1}-abcd.partial"
    for name in (own, gone):
        (tmp_path / name / "inside").mkdir(parents=True)
    remove_leftovers(tmp_path, locked=locked)
    assert [p.name for p in tmp_path.iterdir()] == [own]


@pytest.mark.parametrize("name", [".", "new/folder"])
def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name, "--output")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "file/folder", "x" * 300, "/proc/nowhere"])
def test_a_folder_that_nothing_can_be_written_into_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DGQError, match=r"--output .* cannot be written into"):
        check_writable(tmp_path / "new" / name if name[0] == "x" else tmp_path / name, "--output")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", ["", "{", "[" * 10**6, "\ufeff1", b"\xff"])
def test_what_is_no_json_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DGQError, match=r"a\.json cannot be read as JSON"):
        read_json(path)


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        for read in (read_json, read_tensors, read_sealed_tensors):
            with pytest.raises(DGQError, match="cannot be read: it is"):
                read(tmp_path / name)


@pytest.mark.parametrize("read", [read_json, read_tensors, tensor_names])
def test_a_file_that_cannot_be_opened_is_not_called_missing_or_damaged(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    """safetensors says of each that it does not exist."""
    write_tensors(tmp_path / "a", {"x": torch.zeros(2)}, {})
    read_tensors(tmp_path / "a")  # whatever is imported late
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(DGQError) as raised:
            read(tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(raised.value) == f"{tmp_path / 'a'} cannot be read: Too many open files"


def test_a_file_is_not_called_damaged_where_tensors_have_no_values(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {"x": torch.zeros(2)}, {})
    with FakeTensorMode(), pytest.raises(DGQError, match=r"a is not read where tensors are Fake"):
        read_tensors(tmp_path / "a")
    with torch.device("meta"):
        assert read_tensors(tmp_path / "a")[0]["x"].equal(torch.zeros(2, device="cpu"))


@given(data=st.data())
def test_a_change_anywhere_in_a_sealed_file_is_noticed_or_means_nothing(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "t.safetensors"
    tensors = {"a": torch.arange(4.0), "b": torch.tensor([1, 2], dtype=torch.int16)}
    # Several texts, since the library gives them in any order.
    write_sealed_tensors(path, tensors, {"image": "7", "size": "8", "name": "x"})
    assert read_sealed_tensors(path)[0].keys() == tensors.keys()
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found, metadata = read_sealed_tensors(path)
    except DGQError:
        return
    assert metadata["image"] == "7"
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
