"""PSNR of all pixels together, and the mean of images."""

from pathlib import Path

import pytest
import torch

from evaluation.features.sample import Sample
from evaluation.images.files import to_images
from evaluation.images.store import ImageStore
from evaluation.metrics.measure import Values, measure_sample
from evaluation.metrics.psnr import Psnr, best_psnr, psnr

CODES = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0))


def by_hand(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(255**2 / (a - b).double().square().mean()))


def store(folder: Path, name: str, codes: torch.Tensor) -> ImageStore:
    made = ImageStore(folder, name, {}, [f"prompt {i}" for i in range(len(codes))])
    for index, image in enumerate(to_images(codes / 255)):
        made.save(index, image)
    return made


def measured(folder: Path, codes: torch.Tensor) -> Values:
    expected = Sample(store(folder, "expected", CODES))
    actual = store(folder, "actual", codes)
    return measure_sample(Sample(actual, full_precision=expected, batch_size=2), [Psnr()])


def test_one_changed_picture_dominates_the_pooled_value_but_not_the_mean(tmp_path: Path) -> None:
    codes = CODES.clone()
    codes[:, 0, 0, 0] ^= 1
    codes[2] = 255 - codes[2]
    values = measured(tmp_path, codes)
    assert values.by_key["psnr"] == pytest.approx(by_hand(CODES, codes), rel=1e-6)
    ratios = values.by_key["psnr_mean"]
    assert not isinstance(ratios, float)
    each = [by_hand(CODES[i], codes[i]) for i in range(3)]
    assert ratios[""].hits.tolist() == pytest.approx(each)
    assert ratios[""].value() == pytest.approx(sum(each) / 3)
    assert ratios[""].value() > float(values.by_key["psnr"]) + 20  # type: ignore[arg-type]
    assert not values.notes


def test_an_equal_image_counts_like_the_smallest_difference_there_is(tmp_path: Path) -> None:
    codes = CODES.clone()
    codes[0, 0, 0, 0] ^= 1
    assert by_hand(CODES[0], codes[0]) == pytest.approx(best_psnr(codes.shape))
    values = measured(tmp_path, codes)
    ratios = values.by_key["psnr_mean"]
    assert not isinstance(ratios, float)
    assert ratios[""].hits.tolist() == pytest.approx([best_psnr(codes.shape)] * 3)
    assert len(values.notes) == 1
    assert "those that equal full precision count 71.0 dB" in values.notes[0]


def test_one_equal_image_among_others_is_noted(tmp_path: Path) -> None:
    codes = CODES.clone()
    codes[1:] ^= 1  # the first shares its batch with another
    assert len(measured(tmp_path, codes).notes) == 1


def test_more_error_is_never_better() -> None:
    images = CODES.double() / 255
    noise = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(1)) / 255
    values = [psnr(images, images + n * noise).mean().item() for n in range(4)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4
