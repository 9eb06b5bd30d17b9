"""Files are written whole or not at all, and damaged ones are named."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from dgq.errors import DGQError
from dgq.files import read_tensors, sha256_of, write_json, write_tensors, written_beside


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
