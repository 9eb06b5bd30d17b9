"""Pictures show what captions say, at any size."""

import pytest
import torch

from scenes import render, sample_captions
from scenes.renderer import BACKGROUND_PALETTE, signed_distance, wallpapers
from scenes.vocabulary import BACKGROUNDS, SHAPES

CAPTIONS = sample_captions(50, 0, "train")


def test_shape_range_and_seed() -> None:
    pictures = render(CAPTIONS, 32, 0)
    assert pictures.shape == (50, 3, 32, 32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, render(CAPTIONS, 32, 0))
    assert not torch.equal(pictures, render(CAPTIONS, 32, 1))
    assert render([], 32, 0).shape == (0, 3, 32, 32)


def test_larger_pictures_show_the_same() -> None:
    small, large = render(CAPTIONS, 32, 0), render(CAPTIONS, 128, 0)
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - shrunk).abs().mean() < 0.01


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_corner_is_background(background: str) -> None:
    picture = render([f"a large red square in the centre on a {background} background"], 32, 0)[0]
    colour = BACKGROUND_PALETTE[list(BACKGROUNDS).index(background)]
    assert torch.allclose(picture[:, 0, 0], colour)
    assert not torch.allclose(picture[:, 16, 16], colour)


def test_relations_put_objects_on_the_right_side() -> None:
    caption = "a large red square {} a large blue square on a white background"
    for relation, where in (
        ("to the left of", (slice(None), slice(0, 16))),
        ("to the right of", (slice(None), slice(16, 32))),
        ("above", (slice(0, 16), slice(None))),
        ("below", (slice(16, 32), slice(None))),
    ):
        redness = render([caption.format(relation)], 32, 0)[0]
        redness = (redness[0] - redness[2]).clamp(min=0)
        assert redness[where].sum() > 0.95 * redness.sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_fit_the_box(shape: str) -> None:
    at = torch.linspace(-2, 2, 201)
    y, x = torch.meshgrid(at, at, indexing="ij")
    inside = signed_distance(shape, x.abs(), y, torch.ones(())) < 0
    assert inside[100, 100]
    assert x[inside].abs().max() <= 1.051
    assert y[inside].abs().max() <= 1.051


def test_textures_darken_about_a_third_to_a_half() -> None:
    plain, striped, dotted = wallpapers(64).mean((1, 2))
    assert plain == 0
    assert striped == pytest.approx(0.5, abs=0.01)
    assert dotted == pytest.approx(0.342, abs=0.02)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="not a scene caption"):
        render(["a photo"], 32, 0)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        render(CAPTIONS, 0, 0)
    with pytest.raises(ValueError, match="unknown shape"):
        signed_distance("heart", torch.ones(1), torch.ones(1), torch.ones(1))
