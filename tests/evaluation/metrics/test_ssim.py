"""SSIM of each image."""

import pytest
import torch

from evaluation.metrics.ssim import ssim


def test_ssim_of_each_image() -> None:
    a = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[1] = 1 - a[1]
    values = ssim(a, b)
    assert values[[0, 2]].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert values[1] < 0
    assert ssim(a[:1], b[:1]).shape == (1,)
