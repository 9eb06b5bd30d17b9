"""last.ckpt is whole or refused, to the last bit, and never runs code."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgq.errors import DGQError
from dgq.storage.sealed_archive import is_whole, read_checkpoint
from lit.sealed_checkpoint import SealedCheckpointIO

CONTENT: dict[str, Any] = {
    "calibration": {"identity": "{}", "records": [{"target": "a", "error": 0.5}]},
    "state_dict": {"a": torch.arange(5.0)},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / "last.ckpt"
    SealedCheckpointIO().save_checkpoint(CONTENT, path)
    return path


def test_what_was_saved_comes_back_and_other_programs_can_read_it(file: Path) -> None:
    found = SealedCheckpointIO().load_checkpoint(file)
    assert found["calibration"] == CONTENT["calibration"]
    assert torch.equal(found["state_dict"]["a"], CONTENT["state_dict"]["a"])
    assert torch.load(file, weights_only=True).keys() == CONTENT.keys()
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


@given(data=st.data())
def test_a_change_anywhere_is_noticed(file: Path, data: st.DataObject) -> None:
    content = file.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    length = data.draw(st.integers(0, len(content) - 1))
    assert is_whole(io.BytesIO(content))
    assert not is_whole(io.BytesIO(changed))
    assert not is_whole(io.BytesIO(content[:length]))
    assert not is_whole(io.BytesIO(content + b"\0"))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 1])
def test_a_changed_checkpoint_is_not_read(place: float, file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(DGQError, match=r"last\.ckpt is damaged.* does not have the checksum"):
        SealedCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_neither_way_makes_copies_of_the_file_in_memory(tmp_path: Path) -> None:
    """Python's own memory, which tensors are not part of; there were four copies each way."""
    path, size = tmp_path / "last.ckpt", 2**22
    tensors = {str(i): torch.zeros(size // 16, dtype=torch.uint8) for i in range(16)}
    tracemalloc.start()
    try:
        SealedCheckpointIO().save_checkpoint({**CONTENT, "state_dict": tensors}, path)
        found = read_checkpoint(path)
        assert path.stat().st_size > size
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
    assert all(torch.equal(found["state_dict"][name], value) for name, value in tensors.items())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_a_whole_checkpoint_is_not_blamed_where_memory_runs_out(
    error: Exception, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)):
        read_checkpoint(file)


def test_a_failed_write_leaves_the_old_one(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    SealedCheckpointIO().save_checkpoint(CONTENT, path)
    before = path.read_bytes()
    monkeypatch.setenv("TMPDIR", "/nowhere")  # where Lightning would write first
    SealedCheckpointIO().save_checkpoint(CONTENT, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dgq.storage.sealed_archive.seal_", full)
    with pytest.raises(OSError, match="No space"):
        SealedCheckpointIO().save_checkpoint({**CONTENT, "more": 1}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


class FullDisk(io.BytesIO):
    """A file that takes some bytes and no more."""

    def write(self, part: Any) -> int:
        if self.tell() > 200:
            raise OSError(28, "No space left on device")
        return super().write(part)


def test_a_full_disk_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", lambda *_: FullDisk())
    with pytest.raises(OSError, match="No space"):
        SealedCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last.ckpt")


def test_what_torch_cannot_write_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object, file: io.BytesIO) -> None:
        file.write(b"half")
        raise RuntimeError("no such thing")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="no such thing"):
        SealedCheckpointIO().save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


class Payload:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


def test_a_checkpoint_that_would_run_code_is_refused_even_if_it_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    SealedCheckpointIO().save_checkpoint({"calibration": Payload()}, "last.ckpt")
    with pytest.raises(DGQError, match=r"last\.ckpt cannot be read"):
        read_checkpoint(Path("last.ckpt"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02K\x01.", b"text\n"])
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(DGQError, match=r"last\.ckpt"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, ["calibration"]])
def test_a_checkpoint_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    SealedCheckpointIO().save_checkpoint(content, tmp_path / "last.ckpt")
    with pytest.raises(DGQError, match="not written by a calibration"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.ckpt")
    with pytest.raises(DGQError, match="not a regular file"):
        read_checkpoint(tmp_path / "last.ckpt")
