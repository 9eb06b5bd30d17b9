"""Where the pixels and words of a call lie among the calibrated ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dgq.unet.positions import grid_size, pixel_index, word_index


def test_as_many_pixels_as_calibrated_need_no_index() -> None:
    assert pixel_index(16, 16, (8, 8), (8, 8)) is None


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (4, 4), (16, 8), (12, 20)])
@pytest.mark.parametrize("level", [1, 2])
def test_pixels_are_matched_as_nearest_resizing_does(size: tuple[int, int], level: int) -> None:
    old = torch.arange((8 // level) ** 2, dtype=torch.float32).view(1, 1, 8 // level, 8 // level)
    new_size = (size[0] // level, size[1] // level)
    expected = nn.functional.interpolate(old, new_size, mode="nearest").flatten().long()
    index = pixel_index(expected.numel(), old.numel(), size, (8, 8))
    found = torch.arange(old.numel()) if index is None else index
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (4, 8)])
def test_pixels_of_several_images_are_indexed_one_by_one(size: tuple[int, int]) -> None:
    """As in self-attention that is given the tokens of a reference image too."""
    n_pixels = size[0] * size[1] // 4
    one = pixel_index(n_pixels, 16, size, (8, 8))
    one = torch.arange(16) if one is None else one
    found = pixel_index(3 * n_pixels, 16, size, (8, 8))
    assert found is not None
    assert torch.equal(found, one.repeat(3))


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(n_pixels=st.integers(1, 300), calibrated=st.integers(1, 300), size=sizes, before=sizes)
def test_any_number_of_tokens_lies_among_the_calibrated_ones(
    n_pixels: int, calibrated: int, size: tuple[int, int], before: tuple[int, int]
) -> None:
    """Also where it is that of no feature map, as of tokens that an adapter appends."""
    index = pixel_index(n_pixels, calibrated, size, before)
    if index is None:
        assert (n_pixels, size) == (calibrated, before)
        return
    assert index.shape == (n_pixels,)
    assert index.min() >= 0
    assert index.max() < calibrated


@pytest.mark.parametrize(
    ("n_words", "expected"), [(4, [0, 1, 2, 3]), (2, [0, 1]), (6, [0, 1, 2, 3, 3, 3])]
)
def test_words_stay_where_they_are_and_surplus_ones_are_as_the_last(
    n_words: int, expected: list[int]
) -> None:
    assert word_index(n_words, 4).tolist() == expected


@pytest.mark.parametrize(
    ("n_pixels", "latents", "expected"),
    [(64, (8, 8), (8, 8)), (16, (8, 8), (4, 4)), (24, (8, 12), (4, 6)), (25, (9, 9), (5, 5))],
)
def test_feature_maps_have_the_aspect_of_the_latents(
    n_pixels: int, latents: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert grid_size(n_pixels, latents) == expected
