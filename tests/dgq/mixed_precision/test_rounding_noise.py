"""Estimates of rounding errors against rounding itself, channel by channel."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dgq.math.affine import fake_quantize
from dgq.math.multiples import channel_multiples, finest_scale, possible_multiples
from dgq.math.range_search import weight_parameters, weight_range
from dgq.math.zero_points import required_range
from dgq.mixed_precision.rounding_noise import input_variance, scaled_errors, without_exponents
from dgq.quantizers.observer import Ranges
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import ActivationSettings, WeightSettings


def uneven_rows() -> Tensor:
    """Weights with light and heavy tails, of one sign, and without a value."""
    rows = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    rows = rows.sign() * rows.abs() ** torch.linspace(0.3, 4, 12)[:, None]
    rows[:, :8] *= 4
    rows[3], rows[5], rows[7] = rows[3].abs() + 1, -rows[5].abs() - 1, 0
    return rows


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("exponent", [0, 2])
def test_errors_of_full_ranges_are_those_of_the_quantizer(exponent: int, symmetric: bool) -> None:
    rows = uneven_rows()
    settings = WeightSettings(4, "minmax", symmetric, 8 if exponent else 0, exponent)
    quantizer = WeightQuantizer(settings, rows.shape)
    quantizer.start_learning_(rows)
    quantizer.harden_(None)
    expected = (quantizer(None)[0] - rows).square().sum(1)
    found = scaled_errors(*without_exponents(rows, settings), settings)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3])
def test_errors_are_those_of_the_best_of_eight_ranges(bits: int, symmetric: bool) -> None:
    rows, settings = uneven_rows(), WeightSettings(bits, "mse", symmetric)
    low, high = weight_range(rows, bits, "minmax")
    errors = []
    for shrink in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        scale, zero_point = weight_parameters(low * shrink, high * shrink, bits, symmetric)
        quantized = fake_quantize(rows, scale[:, None], zero_point[:, None], bits)
        errors.append((quantized - rows).square().sum(1))
    found = scaled_errors(*without_exponents(rows, settings), settings)
    torch.testing.assert_close(found, torch.stack(errors).amin(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("exponent", [0, 2])
def test_errors_of_weights_are_those_of_rounding(bits: int, exponent: int) -> None:
    """Against the quantizer that a calibration has, whose range search is ten times as fine."""
    rows = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    rows[:, :8] *= 4
    settings = WeightSettings(bits, "mse", True, 8 if exponent else 0, exponent)
    quantizer = WeightQuantizer(settings, rows.shape)
    quantizer.start_learning_(rows)
    quantizer.harden_(None)
    expected = float((quantizer(None)[0] - rows).square().sum())
    found = scaled_errors(*without_exponents(rows, settings), settings).sum()
    assert float(found) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("room", [0, 1, 4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
def test_variance_of_inputs_is_that_of_the_least_multiples_that_cover_them(
    room: int, padded: bool, per_step: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    half = torch.rand(3, 7, generator=generator, dtype=torch.float64) ** 3 + 0.01
    ranges = Ranges(middle - half, middle + half)
    settings = ActivationSettings(6, "multiples", max_exponent=room, per_step=per_step)
    found = input_variance(ranges, settings, padded)

    low, high = required_range(*ranges, padded)
    if not per_step:
        low, high = low.amin(0, True), high.amax(0, True)
    width = (high - low).numpy()
    needed = (width / width.max(1, keepdims=True)).max(0) * 2**room
    possible = possible_multiples(6, room).tolist()
    multiple = np.array([next(m for m in possible if m >= n) for n in needed])
    scale = (width / multiple).max(1, keepdims=True) / 63 * multiple
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(scale**2 / 12, (3, 7)))


@pytest.mark.parametrize("room", [0, 1, 4])
def test_variance_of_inputs_is_near_that_of_the_multiples_of_a_calibration(room: int) -> None:
    """Which searches a base scale too."""
    generator = torch.Generator().manual_seed(0)
    high = torch.rand(3, 16, generator=generator) ** 3 + 0.01
    ranges = Ranges(-high, high)
    settings = ActivationSettings(6, "multiples", max_exponent=room)
    multiple = channel_multiples(2 * high, 6, room)
    scale = finest_scale(2 * high, multiple, 6)[:, None] * multiple
    found = input_variance(ranges, settings, padded=False)
    assert float(found.sum()) == pytest.approx(float((scale**2 / 12).sum()), rel=0.35)
    assert float(found.sum()) >= float((scale**2 / 12).sum()) * (1 - 1e-5)


@pytest.mark.parametrize(("per_step", "widths"), [(True, (4, 2)), (False, (5, 5))])
def test_variance_of_a_whole_tensor(per_step: bool, widths: tuple[int, int]) -> None:
    low, high = torch.tensor([[-1.0, 0.0], [-2.0, -1.0]]), torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    settings = ActivationSettings(2, n_groups=1, per_step=per_step)
    found = input_variance(Ranges(low, high), settings, padded=True)
    expected = [[(width / 3) ** 2 / 12] * 2 for width in widths]
    torch.testing.assert_close(found, torch.tensor(expected))
