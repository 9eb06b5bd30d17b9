"""The oracle is right about true pictures, and only about those."""

import pytest
import torch

from scenes import ATTRIBUTES, render, sample_captions, score
from scenes.reading import connected_components, read

CAPTIONS = sample_captions(300, 0, "test")
PICTURES = render(CAPTIONS, 32, 0)


@pytest.mark.parametrize("size", [32, 48])
def test_true_pictures_are_right(size: int) -> None:
    summary = score(render(CAPTIONS, size, 1), CAPTIONS).summary()
    assert summary["all"] >= 0.97
    assert set(summary) == {"mean", "all", *ATTRIBUTES}


def test_shuffled_captions_are_wrong() -> None:
    assert score(PICTURES, CAPTIONS[1:] + CAPTIONS[:1]).summary()["all"] == 0


def test_noise_does_not_matter() -> None:
    noise = torch.randn(PICTURES.shape, generator=torch.Generator().manual_seed(0))
    assert score((PICTURES + 0.05 * noise).clamp(0, 1), CAPTIONS).summary()["all"] >= 0.97


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a small striped red circle in the top left on a pink background", {"background"}),
        ("a small striped blue circle in the top left on a white background", {"colour"}),
        ("a large striped red circle in the top left on a white background", {"size"}),
        ("a small striped red bar in the top left on a white background", {"shape"}),
        ("a small red circle in the top left on a white background", {"texture"}),
        ("a small striped red circle in the centre on a white background", {"place"}),
    ],
)
def test_single_differences_are_found(caption: str, wrong: set[str]) -> None:
    picture = render(["a small striped red circle in the top left on a white background"], 32, 0)
    result = score(picture, [caption])
    assert {name for name in ATTRIBUTES if not result.correct[name]} == wrong


def test_relation_and_count() -> None:
    pair = "a small red circle {} a large blue square on a white background"
    result = score(render([pair.format("above")], 32, 0), [pair.format("below")])
    assert not result.correct["relation"]
    assert result.correct["colour"]
    assert result.applies["relation"]
    assert not result.applies["place"]
    many = "{} small red circles on a white background"
    result = score(render([many.format("two")], 32, 0), [many.format("three")])
    assert not result.correct["count"]
    assert (int(result.hits["colour"]), int(result.asked["colour"])) == (2, 3)


def test_empty_pictures_are_wrong_without_error() -> None:
    summary = score(torch.full((4, 3, 32, 32), 0.5), CAPTIONS[:4]).summary()
    assert summary["all"] == 0
    assert summary["shape"] == 0


def test_components_touch_by_edges_only() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 1, 2] = mask[0, 3, 0] = True
    label = connected_components(mask)
    assert len(label.unique()) == 4
    assert label[0, 1, 1] == label[0, 1, 2] != label[0, 0, 0]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="one caption for each picture"):
        score(PICTURES[:2], CAPTIONS[:3])
    with pytest.raises(ValueError, match="expected pictures"):
        read(PICTURES[0])
    with pytest.raises(ValueError, match="too small"):
        read(PICTURES[:, :, :16, :16])
