"""SSIM: structural similarity of two images."""

from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from evaluation.features.sample import ImageBatch
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, NotMeasuredError, PerImageMetric

WINDOW = 11
"""Side of SSIM's window in pixels."""


class Ssim(PerImageMetric):
    """Structural similarity to full precision (Wang et al., 2004), by torchmetrics."""

    key, name = "ssim", "SSIM"
    against = Against.FULL_PRECISION
    lines = (Line("ssim", "SSIM to full precision", Better.HIGHER, digits=3),)

    def score(self, batch: ImageBatch) -> Tensor:
        """Similarity of each image to the one in full precision."""
        if min(batch.pixels.shape[-2:]) < WINDOW:
            raise NotMeasuredError(f"images are smaller than its window of {WINDOW} pixels")
        return ssim(batch.expected_pixels, batch.pixels)


def ssim(expected: Tensor, actual: Tensor) -> Tensor:
    """Structural similarity of each image, [N] (Wang et al., 2004)."""
    values = structural_similarity_index_measure(actual, expected, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(-1)
