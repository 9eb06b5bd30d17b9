"""SSIM of each image."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from evaluation.metrics.ssim import ssim

Plane = NDArray[np.float64]


def similarity(x: Plane, y: Plane) -> float:
    """The published definition, for one channel in [0, 1], over windows inside the image."""

    def local(plane: Plane) -> Plane:
        blurred: Plane = gaussian_filter(plane, 1.5, truncate=3.5)
        return blurred[5:-5, 5:-5]

    mean_x, mean_y = local(x), local(y)
    spread = local(x * x) - mean_x**2 + local(y * y) - mean_y**2
    shared = local(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return float((luminance * (2 * shared + 0.03**2) / (spread + 0.03**2)).mean())


def test_ssim_of_each_image() -> None:
    a = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[1] = 1 - a[1]
    values = ssim(a, b)
    assert values[[0, 2]].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert values[1] < 0
    assert ssim(a[:1], b[:1]).shape == (1,)


@pytest.mark.parametrize("size", [(11, 11), (24, 40)])
def test_ssim_is_the_published_one(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, *size, generator=generator)
    a[:, :, :4] = 1.0  # a plain border, which alone would be similar
    b = (a + 0.2 * torch.randn(2, 3, *size, generator=generator)).clamp(0, 1)
    b[:, :, :4] = 1.0
    pairs = zip(a.double().numpy(), b.double().numpy(), strict=True)
    expected = [np.mean([similarity(*c) for c in zip(x, y, strict=True)]) for x, y in pairs]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-4)
