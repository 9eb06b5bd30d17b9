"""Weights in groups with exponents, and symmetric ones: every formula once more with loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from dgq.math.packing import unpack_codes
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import WeightSettings

EXPONENTS = WeightSettings(4, "minmax", group_size=8, max_exponent=2)


def uneven(*shape: int) -> Tensor:
    """Weights whose groups of 8 inputs differ in size."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=generator).flatten(1)
    sizes = torch.rand(len(weight), weight.shape[1] // 8 + 1, generator=generator).pow(3)
    return (weight * sizes.repeat_interleave(8, 1)[:, : weight.shape[1]]).view(shape)


def started(weight: Tensor, settings: WeightSettings) -> WeightQuantizer:
    quantizer = WeightQuantizer(settings, weight.shape)
    quantizer.start_learning_(weight)
    return quantizer


def codes_of(quantizer: WeightQuantizer) -> np.ndarray:
    n = quantizer.shape[1:].numel()
    return unpack_codes(quantizer.codes, quantizer.settings.n_bits, n).numpy()


def scale_of_each(quantizer: WeightQuantizer) -> np.ndarray:
    """Scale of every weight, in float64, with loops."""
    n = quantizer.shape[1:].numel()
    out = np.empty((quantizer.shape[0], n))
    for o in range(len(out)):
        for i in range(n):
            e = int(quantizer.exponent[o, i // quantizer.settings.group_size])
            out[o, i] = float(quantizer.scale[o]) * 2.0**-e
    return out


@pytest.mark.parametrize("shape", [(5, 32), (3, 37), (4, 3, 3, 3)])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_without_learning_each_weight_is_rounded_to_the_nearest_of_its_group(
    shape: tuple[int, ...], symmetric: bool, method: str
) -> None:
    weight = uneven(*shape)
    settings = replace(EXPONENTS, symmetric=symmetric, range_method=method)  # type: ignore[arg-type]
    quantizer = started(weight, settings)
    quantizer.harden_(None)
    rows = weight.flatten(1).double().numpy()
    scale, zero_point = scale_of_each(quantizer), quantizer.zero_point.numpy()[:, None]
    expected = np.clip(np.rint(rows / scale) + zero_point, 0, 15)
    np.testing.assert_array_equal(codes_of(quantizer), expected)
    dequantized = (expected - zero_point) * scale
    np.testing.assert_allclose(quantizer(None)[0].flatten(1).numpy(), dequantized, rtol=1e-6)
    assert quantizer.exponent.shape == (shape[0], -(-rows.shape[1] // 8))
    assert quantizer.exponent.dtype == torch.uint8
    assert quantizer.exponent.unique().numel() > 1


@pytest.mark.parametrize("symmetric", [False, True])
def test_minmax_ranges_clip_no_weight(symmetric: bool) -> None:
    weight = uneven(6, 40)
    quantizer = started(weight, replace(EXPONENTS, symmetric=symmetric))
    quantizer.harden_(None)
    error = (quantizer(None)[0] - weight).abs().double().numpy()
    assert (error <= scale_of_each(quantizer) * 0.50001).all()


def test_more_exponents_lose_less_where_groups_differ() -> None:
    weight = uneven(16, 64)
    errors = []
    for exponent in (0, 1, 3):
        quantizer = started(weight, replace(EXPONENTS, max_exponent=exponent))
        quantizer.harden_(None)
        errors.append((quantizer(None)[0] - weight).pow(2).sum().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 1.5


@pytest.mark.parametrize("n_bits", [2, 4, 8])
def test_symmetric_codes_lie_around_a_fixed_zero_point(n_bits: int) -> None:
    weight = uneven(6, 40)
    weight[2] = 0
    weight[3] = weight[3].abs()
    quantizer = started(weight, WeightSettings(n_bits, "minmax", symmetric=True))
    assert quantizer.zero_point.tolist() == [2 ** (n_bits - 1)] * 6
    quantizer.harden_(None)
    values = quantizer(None)[0]
    assert ((values - weight).abs() <= quantizer.scale[:, None] * 0.50001).all()
    assert torch.equal(values[2], torch.zeros(40))
    half = 2 ** (n_bits - 1)
    for row, scale in zip(weight.numpy(), quantizer.scale.tolist(), strict=True):
        needed = max(-row.min() / half, row.max() / (half - 1))
        assert scale == pytest.approx(needed if needed > 0 else 1.0, rel=1e-6)


def test_learning_starts_from_the_weight_itself_and_reaches_everything() -> None:
    weight = uneven(5, 32)
    quantizer = started(weight, EXPONENTS)
    soft, bias = quantizer(torch.zeros(5))
    assert bias is not None
    assert ((soft - weight).abs().detach().numpy() <= scale_of_each(quantizer) * 0.5001).all()
    (soft.pow(2).sum() + bias.sum()).backward()
    for parameter in quantizer.learnable.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_hardening_keeps_learned_decisions_and_scales() -> None:
    weight = uneven(3, 16)
    quantizer = started(weight, EXPONENTS)
    before = scale_of_each(quantizer)
    up = torch.arange(16) % 2
    quantizer.learnable.logits.data = torch.where(up == 0, -1.0, 1.0).expand(3, 16).clone()
    quantizer.learnable.log_gain.data = torch.tensor([0.0, 0.5, -0.5])
    learned = quantizer(None)[0].detach()
    quantizer.learnable.logits.requires_grad_(False)
    fixed = quantizer(None)[0].detach()
    quantizer.harden_(None)
    assert torch.equal(quantizer(None)[0], fixed)
    assert not torch.equal(learned, fixed)
    zero_point = quantizer.zero_point.numpy()[:, None]
    floor = np.floor(weight.double().numpy() / before)
    codes = np.clip(floor + up.numpy() + zero_point, 0, 15)
    np.testing.assert_array_equal(codes_of(quantizer), codes)
    gain = np.exp(np.array([0.0, 0.5, -0.5]))[:, None]
    np.testing.assert_allclose(fixed.numpy(), (codes - zero_point) * before * gain, rtol=1e-6)


@pytest.mark.parametrize(
    "settings", [WeightSettings(4), WeightSettings(4, group_size=64), EXPONENTS]
)
def test_exponents_are_stored_only_where_there_are_some(settings: WeightSettings) -> None:
    quantizer = started(uneven(3, 16), settings)
    quantizer.harden_(None)
    assert ("exponent" in quantizer.state_dict()) == settings.has_exponents
    loaded = WeightQuantizer(settings, torch.Size([3, 16]))
    loaded.load_state_dict(quantizer.state_dict())
    assert torch.equal(loaded(None)[0], quantizer(None)[0])


def test_halves_are_rounded_to_even_as_fake_quantization_rounds_them() -> None:
    weight = torch.tensor([[0, 15, 0.5, 1.5, 2.5, 3.5]])  # a scale of exactly 1
    quantizer = started(weight, WeightSettings(4, "minmax"))
    quantizer.harden_(None)
    assert quantizer(None)[0].tolist() == [[0, 15, 0, 2, 2, 4]]
