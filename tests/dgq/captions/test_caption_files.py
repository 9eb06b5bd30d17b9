"""Captions from files: COCO's JSON, text, and everything that is neither."""

import json
from pathlib import Path

import pytest

from dgq.captions.reading import read_captions
from dgq.errors import DGQError

COCO = Path(__file__).parents[4] / "shared" / "data" / "captions_val2017.json"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def coco(captions: list[object]) -> str:
    annotations = [{"image_id": i, "caption": c} for i, c in enumerate(captions)]
    return json.dumps({"images": [], "annotations": annotations})


def test_captions_of_coco_json(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", coco(["A dog.\n", " Two crows ", ""]))
    assert read_captions(path) == ["A dog.", "Two crows"]


def test_captions_of_text_one_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", "A dog.\r\n\n  Two cafés  \n")
    assert read_captions(path) == ["A dog.", "Two cafés"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "holds no captions"),
        ("blank.txt", "\n \n", "holds no captions"),
        ("none.json", '{"annotations": []}', "holds no captions"),
        ("empty.json", "", "not in COCO's format"),
        ("list.json", '["A dog"]', "not in COCO's format"),
        ("other.json", '{"captions": []}', "not in COCO's format"),
        ("field.json", '{"annotations": [{"text": "A dog"}]}', "not in COCO's format"),
        ("strings.json", '{"annotations": ["A dog"]}', "not in COCO's format"),
        ("null.json", coco([None]), "not in COCO's format"),
        ("number.json", coco([5]), "not in COCO's format"),
        ("binary.json", b"\xff\xfe\x00", "cannot be read"),
        ("binary.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_without_captions_are_refused_by_name(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DGQError, match=message) as caught:
        read_captions(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DGQError, match="cannot be read"):
        read_captions(tmp_path / name)


def test_the_first_caption_of_each_image_is_taken(tmp_path: Path) -> None:
    annotations = [{"image_id": i % 3, "caption": f"caption {i}"} for i in range(9)]
    path = write(tmp_path / "c.json", json.dumps({"annotations": annotations}))
    assert read_captions(path) == ["caption 0", "caption 1", "caption 2"]


@pytest.mark.skipif(not COCO.is_file(), reason="COCO's captions are not on this machine")
def test_real_coco_captions_are_read() -> None:
    captions = read_captions(COCO)
    assert len(captions) == 5000
    assert all(caption and caption == caption.strip() for caption in captions)


def test_a_folder_of_something_else_is_called_a_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DGQError, match=r"the folder .* holds no dataset that can be read"):
        read_captions(tmp_path)
