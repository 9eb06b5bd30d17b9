"""The step of a call, and where its pixels lie among the calibrated ones."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from dgq.unet.calls import FIRST_STEP, SamplerCall, SamplerCalls, grid_size, word_index

KNOWN = (981.0, 501.0, 21.0)


def calls() -> SamplerCalls:
    return SamplerCalls(KNOWN, (8, 8))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_calibrated_timesteps_are_found_exactly_and_without_a_warning(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = calls().step_of(torch.tensor([21, 981, 501, 21], dtype=dtype))
    assert steps.tolist() == [2, 0, 1, 2]


def test_other_timesteps_use_the_nearest_and_warn_once() -> None:
    shared = calls()
    with pytest.warns(UserWarning, match="nearest calibrated timestep"):
        first = shared.step_of(torch.tensor(760))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = shared.step_of(torch.tensor([1, 300]))
    assert first.tolist() + second.tolist() == [0, 2, 1]


@pytest.mark.parametrize("timestep", [501, 501.0, torch.tensor(501), torch.tensor([501, 501])])
def test_a_call_tells_step_and_size(timestep: Any) -> None:
    shared, sample = calls(), torch.zeros(2, 4, 6, 10)
    assert shared.begin(sample, timestep) is None
    assert set(shared.step.tolist()) == {1}
    assert shared.current_size == (6, 10)


def test_as_many_pixels_as_calibrated_need_no_index() -> None:
    assert calls().pixel_index(16, 16) is None


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (4, 4), (16, 8), (12, 20)])
@pytest.mark.parametrize("level", [1, 2])
def test_pixels_are_matched_as_nearest_resizing_does(size: tuple[int, int], level: int) -> None:
    shared = calls()
    shared.current = SamplerCall(FIRST_STEP, size)
    old = torch.arange((8 // level) ** 2, dtype=torch.float32).view(1, 1, 8 // level, 8 // level)
    new_size = (size[0] // level, size[1] // level)
    expected = nn.functional.interpolate(old, new_size, mode="nearest").flatten().long()
    index = shared.pixel_index(expected.numel(), old.numel())
    found = torch.arange(old.numel()) if index is None else index
    assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (4, 8)])
def test_pixels_of_several_images_are_indexed_one_by_one(size: tuple[int, int]) -> None:
    """As in self-attention that is given the tokens of a reference image too."""
    shared = calls()
    shared.current = SamplerCall(FIRST_STEP, size)
    n_pixels = size[0] * size[1] // 4
    one = shared.pixel_index(n_pixels, 16)
    one = torch.arange(16) if one is None else one
    found = shared.pixel_index(3 * n_pixels, 16)
    assert found is not None
    assert torch.equal(found, one.repeat(3))


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
