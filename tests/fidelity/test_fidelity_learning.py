"""AdaRound and BRECQ: start, penalty, temperature at every iteration, loss, learned ranges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgq.calibration import learning as learn
from dgq.math.affine import fake_quantize
from dgq.math.reconstruction import reconstruction_loss
from dgq.math.rounding import hard_rounding, rounding_logits, soft_rounding, temperature_at
from dgq.quantizers.learnable_range import LearnableRange
from dgq.settings import ActivationSettings, LearningSettings, WeightSettings
from dgq.targets import Block
from dgq.unet.context import QuantizationContext
from dgq.unet.layers import QuantLinear
from tests.fidelity.formulas import brecq_temperature, rectified_sigmoid, rounding_penalty


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.35])
@pytest.mark.parametrize("n_iterations", [1, 5, 10, 200, 1000])
def test_temperature_at_every_iteration_is_brecqs(n_iterations: int, warmup: float) -> None:
    for count in range(1, n_iterations + 1):
        found = temperature_at(count / n_iterations, warmup)
        expected = brecq_temperature(count, n_iterations, warmup)
        assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))
    assert temperature_at(1.0, warmup) == 2.0


def test_the_penalty_at_every_iteration_of_a_target() -> None:
    how = LearningSettings(iterations=10, polish_iterations=3, penalty=0.01, warmup=0.2)
    context = QuantizationContext([0], (4, 4))
    own = WeightSettings(4, "minmax"), ActivationSettings()
    target = Block(QuantLinear(nn.Linear(6, 5), *own, context))
    learn.start_learning_(target)
    logits = torch.cat([m.logits.flatten() for m in learn.learnables(target.parts())]).tolist()
    h = [rectified_sigmoid(v) for v in logits]
    for iteration in range(13):
        temperature = brecq_temperature(iteration + 1, 10, 0.2) if iteration < 10 else None
        expected = 0.0 if temperature is None else 0.01 * rounding_penalty(h, temperature)
        with torch.no_grad():
            found = float(learn.penalty(target, iteration, how))
        assert found == pytest.approx(expected, rel=1e-4)
    # What the schedule is known by: none, then 20 at the fifth of the way, and 2 at the last.
    assert brecq_temperature(1, 10, 0.2) is None
    assert brecq_temperature(2, 10, 0.2) == 20
    assert brecq_temperature(10, 10, 0.2) == 2


@settings(max_examples=200, deadline=None)
@given(ratio=st.floats(-300, 300))
def test_the_start_is_soft_at_the_fraction_and_hard_at_the_nearest(ratio: float) -> None:
    v = rounding_logits(torch.tensor([ratio], dtype=torch.float64))
    fraction = ratio - math.floor(ratio)
    assert rectified_sigmoid(v.item()) == pytest.approx(fraction, abs=1e-6)
    assert soft_rounding(v).item() == pytest.approx(fraction, abs=1e-6)
    assert math.floor(ratio) + hard_rounding(v).item() == round(ratio)


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (2, 4, 3), (3, 5)])
def test_the_loss_sums_over_features_and_averages_over_the_rest(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    channels = shape[1] if len(shape) == 4 else shape[-1]
    squares = [
        (x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
    ]
    expected = sum(squares) / (len(squares) / channels)
    assert reconstruction_loss(a, b).item() == pytest.approx(expected)


@pytest.mark.parametrize("x", [-9.0, 0.7, 1.24, 90.0])
def test_gradients_of_learned_ranges_are_those_of_lsq_plus(x: float) -> None:
    """LSQ+, eq. 5 and 6: of the scale as for fixed offsets, of the offset only where clipped."""
    scale, zero_point, n_bits = torch.tensor([0.5]), torch.tensor([4]), 4
    learnable = LearnableRange()
    learnable.start_(scale, zero_point)
    gained, moved = learnable.corrected(scale, zero_point, n_bits)
    fake_quantize(torch.tensor([x]), gained, moved, n_bits).backward()
    assert learnable.log_gain.grad is not None
    assert learnable.shift.grad is not None
    ratio = x / 0.5
    below, above = round(ratio) + 4 < 0, round(ratio) + 4 > 15
    of_scale = -4.0 if below else 11.0 if above else round(ratio) - ratio
    # The chain rule: scale = 0.5 exp(log_gain), zero_point = 4 + 16 shift.
    assert learnable.log_gain.grad.item() == pytest.approx(0.5 * of_scale, abs=1e-6)
    of_zero_point = -0.5 if below or above else 0.0
    assert learnable.shift.grad.item() == pytest.approx(16 * of_zero_point, abs=1e-6)
