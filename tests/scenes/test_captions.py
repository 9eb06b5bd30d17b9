"""Captions are drawn reproducibly, and the splits never meet."""

import pytest

from scenes import class_prompts, is_scene_caption, parse_caption, sample_captions


def test_captions_are_distinct_and_reproducible() -> None:
    captions = sample_captions(300, 0, "train")
    assert len(set(captions)) == 300
    assert captions == sample_captions(300, 0, "train")
    assert captions[:100] == sample_captions(100, 0, "train")
    assert captions != sample_captions(300, 1, "train")


def test_splits_are_disjoint() -> None:
    train = set(sample_captions(1500, 0, "train")) | set(sample_captions(1500, 1, "train"))
    test = set(sample_captions(500, 0, "test"))
    assert not train & test


def test_all_layouts_occur() -> None:
    scenes = [parse_caption(caption) for caption in sample_captions(200, 0, "test")]
    for layout in ("place", "relation", "count"):
        assert sum(getattr(scene, layout) is not None for scene in scenes) > 20


def test_class_prompts_are_captions() -> None:
    prompts = class_prompts()
    assert len(set(prompts)) == len(prompts) == 48
    assert all(map(is_scene_caption, prompts))


def test_bad_arguments() -> None:
    assert sample_captions(0, 0, "test") == []
    with pytest.raises(ValueError, match="cannot draw -1 captions"):
        sample_captions(-1, 0, "test")
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        sample_captions(1, 0, "validation")  # type: ignore[arg-type]
