"""Where prompts come from, and what is wrong with those that do not come."""

import json
from pathlib import Path

import pytest

import scenes
from data.embedded import SCENES
from dgq.errors import DGQError
from evaluation.prompts import load_prompts, reference_captions


def test_captions_of_held_out_scenes_by_default() -> None:
    prompts = load_prompts(None, 7, seed=3)
    assert list(prompts.captions) == scenes.sample_captions(7, 3, "test")
    assert prompts.benchmark is SCENES
    assert len(load_prompts(None, None, seed=3).captions) == 256


def test_references_are_other_scenes() -> None:
    assert reference_captions(20, 0) != list(load_prompts(None, 20, 0).captions)


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\n  zwölf Boxkämpfer \n", encoding="utf-8")
    prompts = load_prompts(str(file), None, 0)
    assert prompts.captions == ("a red circle", "zwölf Boxkämpfer")
    assert prompts.benchmark is None
    assert prompts.source == "prompts.txt"
    assert load_prompts(str(file), 1, 0).captions == ("a red circle",)


def test_captions_in_a_file_are_recognised(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(scenes.sample_captions(3, 0, "train")))
    assert load_prompts(str(file), None, 0).benchmark is SCENES


def test_the_first_caption_of_each_image_of_coco(tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    annotations = [
        {"image_id": 2, "caption": "A dog. "},
        {"image_id": 2, "caption": "Another dog."},
        {"image_id": 1, "caption": "A cat."},
    ]
    file.write_text(json.dumps({"annotations": annotations}))
    assert load_prompts(str(file), None, 0).captions == ("A dog.", "A cat.")


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_list_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(content)
    with pytest.raises(DGQError, match="holds no captions"):
        load_prompts(str(file), None, 0)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"annotations": [{"image_id": 1}]}', '{"annotations": [1]}']
)
def test_a_json_file_that_is_not_coco(tmp_path: Path, content: str) -> None:
    file = tmp_path / "captions.json"
    file.write_text(content)
    with pytest.raises(DGQError, match="not in COCO"):
        load_prompts(str(file), None, 0)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="cannot be read"):
        load_prompts(str(tmp_path / "missing.txt"), None, 0)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DGQError, match="cannot be read"):
        load_prompts(str(tmp_path / "binary.txt"), None, 0)


def test_more_images_than_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    with pytest.raises(DGQError, match=r"--num-images is 3, but .* holds 2 prompts"):
        load_prompts(str(file), 3, 0)


def test_lists_with_the_same_beginning_are_told_apart(tmp_path: Path) -> None:
    """So that images of one list are never taken for those of another."""
    identities = set()
    for name, text in {"a": "one\ntwo", "b": "one\nthree"}.items():
        file = tmp_path / f"{name}.txt"
        file.write_text(text)
        identities.add(load_prompts(str(file), 1, 0).identity)
    assert len(identities) == 2
    few, many = load_prompts(None, 3, 0), load_prompts(None, 30, 0)
    assert few.identity == many.identity != load_prompts(None, 3, 1).identity
    assert many.captions[:3] == few.captions
