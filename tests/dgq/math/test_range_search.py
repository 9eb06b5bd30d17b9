"""Ranges of weights against a slow search, one channel and one candidate at a time."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dgq.math.affine import affine_parameters, fake_quantize
from dgq.math.range_search import best_shrink_factor, weight_range


def error_by_hand(row: np.ndarray, low: float, high: float, n_bits: int, symmetric: bool) -> float:
    qmax, half = 2**n_bits - 1, 2 ** (n_bits - 1)
    scale = max(-low / half, high / (half - 1)) if symmetric else (high - low) / qmax
    if scale == 0:
        scale = 1.0
    zero_point = half if symmetric else np.rint(-low / scale)
    quantized = scale * (np.clip(np.rint(row / scale) + zero_point, 0, qmax) - zero_point)
    return float(np.mean(np.abs(quantized - row) ** 2.4))


def slow_search(row: np.ndarray, n_bits: int, symmetric: bool) -> tuple[float, float]:
    low, high = min(row.min(), 0.0), max(row.max(), 0.0)
    best, best_error = (low, high), np.inf
    for i in range(80):
        factor = 1 - 0.01 * i
        error = error_by_hand(row, low * factor, high * factor, n_bits, symmetric)
        if error < best_error:
            best, best_error = (low * factor, high * factor), error
    return best


def heavy_tailed(channels: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(channels, n, generator=generator, dtype=torch.float64).pow(3)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("n_bits", [2, 4, 8])
def test_search_equals_a_slow_loop_over_channels(n_bits: int, symmetric: bool) -> None:
    weight = heavy_tailed(9, 60)
    weight[3] = weight[3].abs()
    weight[4] = -weight[4].abs()
    weight[5] *= 1e-5
    low, high = weight_range(weight, n_bits, "mse", symmetric)
    expected = np.array([slow_search(row, n_bits, symmetric) for row in weight.numpy()])
    np.testing.assert_allclose(torch.stack([low, high], 1).numpy(), expected, rtol=1e-12)


def test_candidates_are_shared_by_all_dimensions_of_a_convolution() -> None:
    weight = heavy_tailed(4, 18)
    flat = weight_range(weight, 4, "mse")
    kernel = weight_range(weight.view(4, 2, 3, 3), 4, "mse")
    assert all(torch.equal(a, b) for a, b in zip(flat, kernel, strict=True))


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7, 1e-30])
def test_dead_and_constant_channels_are_kept(method: str, value: float) -> None:
    weight = torch.stack([torch.full((6,), value), torch.linspace(-1, 1, 6)])
    low, high = weight_range(weight, 4, method)  # type: ignore[arg-type]
    scale, zero_point = affine_parameters(low, high, 4)
    quantized = fake_quantize(weight, scale[:, None], zero_point[:, None], 4)
    assert quantized.isfinite().all()
    torch.testing.assert_close(quantized[0], weight[0], rtol=1e-6, atol=0)


def test_minmax_range_holds_zero_and_every_weight() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0], [-1.0, 0.5, 2.0]])
    low, high = weight_range(weight, 4, "minmax")
    assert low.tolist() == [0.0, -3.0, -1.0]
    assert high.tolist() == [3.0, 0.0, 2.0]


def test_search_clips_an_outlier_that_minmax_keeps() -> None:
    row = torch.cat([torch.linspace(-1, 1, 500), torch.tensor([3.0])])[None]
    _, high = weight_range(row, 3, "mse")
    assert high < 2.9
    assert weight_range(row, 3, "minmax")[1] == 3.0


def test_a_range_shrinks_to_a_fifth_at_most_and_not_at_all_without_need() -> None:
    crowd = torch.linspace(-0.1, 0.1, 100_000)
    rows = torch.stack([torch.cat([crowd, torch.tensor([1.0])]), torch.zeros(100_001)])
    factor = best_shrink_factor(rows, rows.amin(1), rows.amax(1), 2, symmetric=False)
    assert factor.tolist() == pytest.approx([0.21, 1])
