"""Quantized weights: codes by hand, what learning starts from, what hardening keeps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.math.packing import unpack_codes
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import RangeMethod, WeightSettings


def weight_of(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.3


def started(weight: Tensor, n_bits: int = 4, method: RangeMethod = "minmax") -> WeightQuantizer:
    quantizer = WeightQuantizer(WeightSettings(n_bits, method), weight.shape)
    quantizer.start_learning_(weight)
    return quantizer


def nearest_by_hand(weight: np.ndarray, n_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and dequantized weights of min-max rounding to nearest, channel by channel."""
    codes, values = [], []
    for row in weight.reshape(len(weight), -1):
        low, high = min(row.min(), np.float32(0)), max(row.max(), np.float32(0))
        scale = (high - low) / np.float32(2**n_bits - 1)
        zero_point = np.rint(-low / scale)
        code = np.clip(np.rint(row / scale) + zero_point, 0, 2**n_bits - 1)
        codes.append(code)
        values.append((code - zero_point) * scale)
    return np.stack(codes), np.stack(values).reshape(weight.shape)


@pytest.mark.parametrize("n_bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3)])
def test_without_learning_the_codes_are_those_of_nearest_rounding(
    n_bits: int, shape: tuple[int, ...]
) -> None:
    weight = weight_of(*shape)
    quantizer = started(weight, n_bits)
    quantizer.harden_(None)
    codes, values = nearest_by_hand(weight.numpy(), n_bits)
    found = unpack_codes(quantizer.codes, n_bits, codes.shape[1])
    np.testing.assert_array_equal(found.numpy(), codes)
    np.testing.assert_array_equal(quantizer(None)[0].numpy(), values.astype(np.float32))


def test_learning_starts_from_the_weight_itself() -> None:
    weight = weight_of(5, 7)
    quantizer = started(weight)
    quantized, bias = quantizer(torch.ones(5))
    codes, _ = nearest_by_hand(weight.numpy(), 4)
    inside = torch.from_numpy((codes > 0) & (codes < 15))
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(quantized[inside], weight[inside], atol=1e-6, rtol=1e-5)
    # The ends of the range are clipped by what the zero point was rounded, at most half a step.
    assert ((quantized - weight).abs() <= quantizer.scale[:, None] * 0.5001).all()
    assert bias is not None
    assert torch.equal(bias, torch.ones(5))


def test_a_fixed_rounding_is_hard_while_scales_are_still_learned() -> None:
    weight = weight_of(5, 7)
    quantizer = started(weight)
    quantizer.learnable.logits.requires_grad_(False)
    polished, _ = quantizer(None)
    np.testing.assert_array_equal(polished.detach().numpy(), nearest_by_hand(weight.numpy(), 4)[1])


def test_gradients_reach_rounding_scales_and_bias() -> None:
    quantizer = started(weight_of(5, 7))
    weight, bias = quantizer(torch.zeros(5))
    assert bias is not None
    (weight.pow(2).sum() + bias.sum()).backward()
    for parameter in quantizer.learnable.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_hardening_keeps_learned_decisions_scales_and_biases() -> None:
    weight, bias = weight_of(3, 6), torch.tensor([1.0, 2.0, 3.0])
    quantizer = started(weight)
    scale, zero_point = quantizer.scale.clone(), quantizer.zero_point.clone()
    learnable = quantizer.learnable
    learnable.logits.data = torch.where(torch.arange(6) % 2 == 0, -3.0, 3.0).expand(3, 6).clone()
    learnable.log_gain.data = torch.tensor([0.0, 0.5, -0.5])
    learnable.bias_shift.data = torch.tensor([0.0, -1.0, 0.25])
    learnable.logits.requires_grad_(False)
    before = quantizer(bias)
    quantizer.harden_(bias)
    floor = torch.floor(weight / scale[:, None])
    rounded = floor + (torch.arange(6) % 2)
    codes = (rounded + zero_point[:, None]).clamp(0, 15)
    gain = torch.tensor([1.0, np.exp(0.5), np.exp(-0.5)], dtype=torch.float32)
    hardened, shifted = quantizer(None)
    torch.testing.assert_close(hardened, (codes - zero_point[:, None]) * (scale * gain)[:, None])
    assert shifted is not None
    torch.testing.assert_close(shifted, torch.tensor([1.0, 1.0, 3.25]))
    torch.testing.assert_close(before, (hardened, shifted))


def test_hardening_frees_what_was_learned() -> None:
    quantizer = started(weight_of(3, 6))
    parameters = list(quantizer.learnable.parameters())
    quantizer(None)[0].sum().backward()
    quantizer.harden_(None)
    assert all(p.numel() == 0 and p.grad is None for p in quantizer.learnable.parameters())
    assert all(a is b for a, b in zip(parameters, quantizer.learnable.parameters(), strict=True))


def test_learning_starts_over_softly() -> None:
    weight = weight_of(3, 6)
    quantizer = started(weight)
    start = quantizer(None)[0].detach()
    quantizer.learnable.logits.requires_grad_(False)
    quantizer.harden_(None)
    quantizer.start_learning_(weight)
    assert torch.equal(quantizer(None)[0].detach(), start)
    assert quantizer.learnable.logits.requires_grad


def test_mse_ranges_lose_less_than_minmax_on_heavy_tails() -> None:
    weight = weight_of(6, 200).pow(3)
    errors = []
    for method in ("minmax", "mse"):
        quantizer = started(weight, 3, method)
        quantizer.harden_(None)
        errors.append((quantizer(None)[0] - weight).pow(2).sum().item())
    assert errors[1] < 0.95 * errors[0]


def test_wrong_order_of_calls_is_an_error() -> None:
    quantizer = WeightQuantizer(WeightSettings(), torch.Size([2, 2]))
    with pytest.raises(DGQError, match="no quantized weight yet"):
        quantizer(None)
    with pytest.raises(DGQError, match="call start_learning_ first"):
        quantizer.harden_(None)
