"""The oracle in batches, and images that it cannot read."""

from collections.abc import Sequence

import pytest
import torch
from PIL import Image

import scenes
from data.embedded import SCENES
from evaluation.features.sample import ImageBatch
from evaluation.images.files import to_images, to_tensor
from evaluation.metrics.estimate import Ratio, of_ratios
from evaluation.metrics.metric import NotMeasuredError
from evaluation.metrics.oracle import Oracle


def read(images: Sequence[Image.Image], captions: Sequence[str]) -> dict[str, dict[str, Ratio]]:
    """The oracle's values of images in batches of four."""
    oracle = Oracle(SCENES)
    oracle.reset()
    for first in range(0, len(images), 4):
        part = slice(first, first + 4)
        oracle.update(ImageBatch(images[part], captions[part]))
    return oracle.compute(None)  # type: ignore[arg-type, return-value]  # it needs the images alone


def test_the_oracle_in_batches_says_what_it_says_at_once() -> None:
    captions = scenes.sample_captions(9, 0, "test")
    images = to_images(scenes.render(captions, 32, 0))
    for asked in (captions, captions[::-1]):
        summary = scenes.score(to_tensor(images), asked).summary()
        values = read(images, asked)
        assert {
            key.removeprefix("oracle_"): of_ratios([ratios], None).value
            for key, ratios in values.items()
        } == pytest.approx(summary, abs=1e-6)


def test_images_that_the_oracle_cannot_read() -> None:
    captions = scenes.sample_captions(1, 0, "test")
    with pytest.raises(NotMeasuredError, match="expected pictures"):
        read(to_images(torch.rand(1, 3, 32, 16)), captions)
