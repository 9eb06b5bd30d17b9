"""SSIM: structural similarity of two images."""

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from evaluation.features.sample import ImageBatch
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, NotMeasuredError, PerImageMetric

WINDOW = 11
"""Side of SSIM's window in pixels."""


class Ssim(PerImageMetric):
    """Structural similarity to full precision (Wang et al., 2004), with its window of 11 pixels."""

    key, name = "ssim", "SSIM"
    against = Against.FULL_PRECISION
    lines = (Line("ssim", "SSIM to full precision", Better.HIGHER, digits=3),)

    def score(self, batch: ImageBatch) -> Tensor:
        """Similarity of each image to the one in full precision."""
        if min(batch.pixels.shape[-2:]) < WINDOW:
            raise NotMeasuredError(f"images are smaller than its window of {WINDOW} pixels")
        return ssim(batch.expected_pixels, batch.pixels)


def ssim(expected: Tensor, actual: Tensor) -> Tensor:
    """Structural similarity of each image, [N] (Wang et al., 2004), over windows inside the image.

    torchmetrics' own mean includes windows that reach into a reflected border, and so is higher
    where borders are plain.
    """
    _, of_windows = structural_similarity_index_measure(
        actual, expected, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(of_windows, Tensor)
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    return of_windows[..., inside, inside].mean((1, 2, 3))
