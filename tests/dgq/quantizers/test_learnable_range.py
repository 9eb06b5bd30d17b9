"""Learned ranges: gradients by the formula, learning that helps, and what is kept of it."""

import pytest
import torch
from torch import Tensor

from dgq.math.affine import fake_quantize
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.learnable_range import LearnableRange
from dgq.settings import ActivationSettings
from dgq.unet.calls import SamplerCall
from dgq.unet.context import QuantizationContext
from tests.observed import fitted_, learn_ranges_, randn


def channels(seed: int = 0) -> Tensor:
    return randn(64, 6, 4, 4, seed=seed) * torch.tensor([0.1, 0.1, 0.1, 1, 1, 1]).view(-1, 1, 1)


def fitted(x: Tensor, step: Tensor, n_bits: int, n_steps: int = 1) -> ActivationQuantizer:
    context = QuantizationContext(range(n_steps), (4, 4))
    quantizer = ActivationQuantizer(ActivationSettings(n_bits, n_groups=2), context)
    return fitted_(quantizer, x, step)


def test_nothing_changes_before_the_first_step() -> None:
    x = channels()
    quantizer = fitted(x, torch.zeros(1, dtype=torch.long), 4)
    before = quantizer(x)
    quantizer.start_learning_()
    assert torch.equal(quantizer(x), before)
    quantizer.harden_()
    assert torch.equal(quantizer(x), before)


@pytest.mark.parametrize("n_bits", [2, 4, 8])
def test_gradients_are_those_of_lsq(n_bits: int) -> None:
    x = torch.linspace(-3, 5, 41)
    scale, zero_point = torch.tensor(3.1 / 2**n_bits), torch.tensor(2.0)
    learnable = LearnableRange()
    learnable.start_(scale, zero_point)
    fake_quantize(x, *learnable.corrected(scale, zero_point, n_bits), n_bits).sum().backward()
    codes = torch.round(x / scale) + zero_point
    inside = (codes >= 0) & (codes <= 2**n_bits - 1)
    clipped = codes.clamp(0, 2**n_bits - 1) - zero_point
    by_scale = torch.where(inside, torch.round(x / scale) - x / scale, clipped)
    by_zero_point = torch.where(inside, torch.zeros_like(x), -scale)
    assert learnable.log_gain.grad is not None
    assert learnable.shift.grad is not None
    torch.testing.assert_close(learnable.log_gain.grad, (by_scale * scale).sum())
    torch.testing.assert_close(learnable.shift.grad, by_zero_point.sum() * 2**n_bits)


def test_learning_lowers_the_error_of_few_bits_and_leaves_other_steps_alone() -> None:
    x, held_out = channels(0), channels(1)
    quantizer = fitted(x, torch.tensor([0, 1] * 32), 3, n_steps=2)
    quantizer.context.current = SamplerCall(torch.tensor([1]), (4, 4))
    before = (quantizer(held_out) - held_out).square().mean()
    untouched = quantizer.scale[0].clone()
    quantizer.start_learning_()
    learn_ranges_(quantizer, x)
    learned = quantizer(held_out)
    quantizer.harden_()
    assert (quantizer(held_out) - held_out).square().mean() < 0.7 * before
    torch.testing.assert_close(quantizer(held_out), learned)
    assert torch.equal(quantizer.scale[0], untouched)
    assert quantizer.zero_point.dtype == torch.int32
    assert quantizer.learnable is not None
    assert not quantizer.learnable.active


def test_floating_point_has_nothing_to_learn() -> None:
    quantizer = ActivationQuantizer(ActivationSettings(16), QuantizationContext([0], (4, 4)))
    quantizer.start_learning_()
    quantizer.harden_()
    assert not list(quantizer.parameters())
