"""PSNR: pixel-wise difference of images to full precision."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio

from evaluation.features.sample import ImageBatch, Sample
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, Metric, Value, mean_of

LEVELS = 255
"""Number of steps of a pixel's value between black and white."""


class Psnr(Metric):
    """Peak signal to noise ratio to full precision, of all pixels together and mean of images.

    A single image that has changed into another picture can hold most of the squared error of all
    pixels; in the mean over images it counts once.
    """

    key, name = "psnr", "PSNR"
    against = Against.FULL_PRECISION
    lines = (
        Line("psnr", "PSNR to full precision", Better.HIGHER, "dB"),
        Line("psnr_mean", "PSNR to full precision, mean of images", Better.HIGHER, "dB"),
    )

    def reset(self) -> None:
        """Forget the images seen so far."""
        self._pooled = PeakSignalNoiseRatio(data_range=1.0)
        self._of_images: list[Tensor] = []
        self._best: float | None = None

    def update(self, batch: ImageBatch) -> None:
        """Add the squared errors of a batch of images."""
        actual, expected = batch.pixels.double(), batch.expected_pixels.double()
        self._pooled.update(actual, expected)
        self._of_images.append(psnr(expected, actual))
        if (actual == expected).flatten(1).all(1).any():
            self._best = best_psnr(actual.shape)

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The PSNR of all pixels together, and the mean over images."""
        return {
            "psnr": self._pooled.compute().item(),
            "psnr_mean": mean_of(torch.cat(self._of_images)),
        }

    def notes(self, sample: Sample) -> Iterator[str]:
        """A note on the value that images equal to full precision count with."""
        if self._best is not None:
            yield (
                f"PSNR, mean of images: those that equal full precision count {self._best:.1f} dB, "
                "as if a single value differed by 1/255"
            )


def psnr(expected: Tensor, actual: Tensor) -> Tensor:
    """PSNR of each image in dB, [N]; at most ``best_psnr``, which equal images get.

    Args:
        expected: [N, 3, H, W] in [0, 1], multiples of 1/255.
        actual: the same.
    """
    errors = (expected - actual).square().flatten(1).mean(1)
    decibels = -10 * errors.log10()
    return decibels.clamp(max=best_psnr(actual.shape))


def best_psnr(shape: torch.Size) -> float:
    """PSNR of two 8-bit images that differ by one step in one value of one pixel."""
    return 20 * math.log10(LEVELS) + 10 * math.log10(math.prod(shape[1:]))
