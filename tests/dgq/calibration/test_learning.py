"""Schedules and penalty of the learning against their formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from dgq.calibration.learning import (
    activation_lr,
    learnables,
    penalty,
    rounding_lr,
    scale_lr,
    start_learning_,
)
from dgq.settings import ActivationSettings, LearningSettings, WeightSettings
from dgq.targets import Block
from dgq.unet.context import QuantizationContext
from dgq.unet.layers import QuantLinear

SETTINGS = LearningSettings(
    iterations=100, polish_iterations=50, activation_lr=0.03, penalty=0.01, warmup=0.2
)


def target(n_bits: int = 4) -> Block:
    context = QuantizationContext([0], (4, 4))
    settings = WeightSettings(n_bits, "minmax"), ActivationSettings()
    layers = [QuantLinear(nn.Linear(6, 5), *settings, context) for _ in range(2)]
    return Block(nn.Sequential(*layers))


@pytest.mark.parametrize("iteration", [0, 1, 37, 99, 100, 120, 149])
def test_rates_fall_as_a_cosine_in_each_phase(iteration: int) -> None:
    first = 0.5 * (1 + math.cos(math.pi * iteration / 100)) if iteration < 100 else 0.0
    second = 0.5 * (1 + math.cos(math.pi * (iteration - 100) / 50))
    assert rounding_lr(iteration, SETTINGS) == pytest.approx(SETTINGS.rounding_lr * first)
    expected = SETTINGS.scale_lr * first if iteration < 100 else SETTINGS.polish_lr * second
    assert scale_lr(iteration, SETTINGS) == pytest.approx(expected)
    expected = 0.0 if iteration < 100 else 0.03 * second
    assert activation_lr(iteration, SETTINGS) == pytest.approx(expected)


def test_constant_rates_last_as_long_as_their_phase() -> None:
    settings = replace(SETTINGS, decay="constant")
    rates = [rounding_lr, scale_lr, activation_lr]
    found = [[rate(iteration, settings) for rate in rates] for iteration in (0, 99, 100, 149)]
    first, second = [settings.rounding_lr, settings.scale_lr, 0], [0, settings.polish_lr, 0.03]
    assert found == [first, first, second, second]


def test_phases_without_iterations_have_no_rate() -> None:
    settings = LearningSettings(iterations=0, polish_iterations=0)
    assert rounding_lr(0, settings) == scale_lr(0, settings) == 0.0


@pytest.mark.parametrize(("iteration", "b"), [(19, 20.0), (59, 11.0), (99, 2.0)])
def test_penalty_sums_over_all_layers_of_the_target(iteration: int, b: float) -> None:
    module = target()
    start_learning_(module)
    logits = torch.cat([m.logits.flatten() for m in learnables(module.parts())]).tolist()
    h = [min(max(1.2 / (1 + math.exp(-v)) - 0.1, 0), 1) for v in logits]
    expected = 0.01 * sum(1 - abs(2 * x - 1) ** b for x in h)
    found = penalty(module, iteration, SETTINGS)
    assert isinstance(found, torch.Tensor)
    assert found.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("iteration", [0, 18, 100, 130])
def test_no_penalty_in_the_warmup_and_in_the_polish(iteration: int) -> None:
    module = target()
    start_learning_(module)
    assert penalty(module, iteration, SETTINGS) == 0.0


def test_a_target_in_floating_point_has_nothing_to_learn() -> None:
    module = target(16)
    start_learning_(module)
    assert learnables(module.parts()) == []
    assert penalty(module, 50, SETTINGS) == 0.0
