"""Whole multiples: factors by trying, a slow search, and the integer product they are for."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dgq.math.exponent_search import N_PHASES
from dgq.math.multiples import (
    channel_multiples,
    finest_scale,
    of_weights,
    possible_multiples,
    shared_multiple,
)
from dgq.quantizers.exponent_quantizer import ExponentQuantizer
from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.quantizers.weight_quantizer import WeightQuantizer
from dgq.settings import ActivationSettings, WeightSettings
from dgq.unet.calls import FIRST_STEP, SamplerCall
from dgq.unet.context import QuantizationContext


def fitted(
    x: Tensor,
    step: Tensor | None = None,
    n_bits: int = 6,
    max_exponent: int = 4,
    padded: bool = False,
    n_steps: int = 1,
) -> MultipleQuantizer:
    """A quantizer calibrated on ``x``, whose context stands at its steps."""
    context = QuantizationContext(range(n_steps), (4, 4))
    activations = ActivationSettings(n_bits, "multiples", max_exponent=max_exponent)
    quantizer = MultipleQuantizer(activations, context, padded=padded)
    context.current = SamplerCall(FIRST_STEP if step is None else step, (4, 4))
    context.observing, context.activations = True, False
    quantizer.start_observing_()
    quantizer(x)
    quantizer.fit_()
    context.observing, context.activations = False, True
    return quantizer


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uneven(*shape: int, seed: int = 0) -> Tensor:
    """Channels (dimension 1) of very different sizes and offsets."""
    size = torch.logspace(-1.5, 1, shape[1]).view(-1, *[1] * (len(shape) - 2))
    return randn(*shape, seed=seed) * size + size.flip(0)


@pytest.mark.parametrize(
    ("n_bits", "max_exponent", "expected"),
    [
        (8, 0, [1]),
        (8, 2, [1, 2, 3, 4]),
        (6, 4, [1, 2, 3, 4, 6, 8, 9, 12, 16]),
        (6, 2, [1, 2, 3, 4]),
        (7, 2, [1, 2, 4]),
    ],
)
def test_possible_multiples_by_hand(n_bits: int, max_exponent: int, expected: list[int]) -> None:
    assert possible_multiples(n_bits, max_exponent).tolist() == expected


@given(n_bits=st.integers(2, 8), max_exponent=st.integers(0, 8))
def test_every_multiple_is_shared_by_factors_that_fit(n_bits: int, max_exponent: int) -> None:
    possible = possible_multiples(n_bits, max_exponent)
    on_codes, on_weights = shared_multiple(possible, n_bits, max_exponent)
    assert torch.equal(on_codes * on_weights, possible)
    assert on_codes.min() >= 1
    assert (on_codes * (2**n_bits - 1) <= 255).all()
    assert on_codes.max() * on_weights.max() == 2**max_exponent
    # Exponents are among them, with room to spare for none.
    assert set(2 ** np.arange(max_exponent + 1)) <= set(possible.tolist())


def slow_search(relative: np.ndarray, possible: list[int]) -> list[int]:
    best, least = [], math.inf
    for i in range(N_PHASES):
        t = 2 ** (i / N_PHASES)
        needed = relative.max(0) * possible[-1] / t
        found = [next(m for m in possible if m >= n) for n in needed]
        error = 0.0
        for row in relative:
            base = max(r / m for r, m in zip(row, found, strict=True))
            error += sum((base * m) ** 2 for m in found)
        if error < least * (1 - 1e-9):
            best, least = found, error
    return best


@pytest.mark.parametrize("max_exponent", [0, 1, 3, 5])
def test_channels_equal_a_slow_search(max_exponent: int) -> None:
    generator = torch.Generator().manual_seed(max_exponent)
    width = torch.rand(4, 9, generator=generator, dtype=torch.float64).pow(4)
    width *= torch.tensor([[1.0], [3.0], [0.01], [7.0]])
    width[:, 2] = 0
    found = channel_multiples(width, 6, max_exponent)
    relative = (width / width.amax(1, keepdim=True)).numpy()
    assert found.dtype == torch.int16
    assert found.tolist() == slow_search(relative, possible_multiples(6, max_exponent).tolist())
    assert found[2] == 1


def test_finest_scales_of_dead_steps_are_usable() -> None:
    scale = finest_scale(torch.tensor([[0.0, 0.0], [1e-40, 0.0]]), torch.tensor([1, 9]), 8)
    assert scale[0] == 1
    assert scale[1] >= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_weights_that_absorb_the_multiples_take_inputs_divided_by_them(groups: int) -> None:
    x, weight = randn(2, 6, 5, 5), randn(12, 6 // groups, 3, 2, seed=1)
    multiple = torch.tensor([1, 2, 4, 8, 16, 2])
    absorbed = (weight.flatten(1) * of_weights(multiple, weight.shape)).view_as(weight)
    found = F.conv2d(x / multiple[:, None, None], absorbed, groups=groups)
    torch.testing.assert_close(found, F.conv2d(x, weight, groups=groups))


@pytest.mark.parametrize("max_exponent", [0, 2, 4])
def test_equals_the_formula_written_with_loops(max_exponent: int) -> None:
    x, step = uneven(4, 6, 3, 3), torch.tensor([0, 1, 0, 1])
    quantizer = fitted(x, step, 5, max_exponent, n_steps=2)
    assert quantizer.scale.shape == (2,)
    assert quantizer.zero_point.shape == (2, 6)
    assert quantizer.multiple.shape == (6,)
    expected = np.empty(x.shape)
    for b, s in enumerate(step.tolist()):
        for c in range(6):
            scale = float(quantizer.scale[s]) * int(quantizer.multiple[c])
            zero_point = int(quantizer.zero_point[s, c])
            codes = np.clip(np.rint(x[b, c].double().numpy() / scale) + zero_point, 0, 31)
            expected[b, c] = scale * (codes - zero_point)
    np.testing.assert_allclose(quantizer(x).numpy(), expected, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    n_bits=st.sampled_from([2, 4, 6, 8]),
    max_exponent=st.integers(0, 7),
    channels=st.integers(1, 7),
    padded=st.booleans(),
    kind=st.sampled_from(["cubed", "constant", "dead", "far", "all dead"]),
    seed=st.integers(0, 10_000),
)
def test_calibration_data_is_never_clipped_beyond_half_a_step(
    n_bits: int, max_exponent: int, channels: int, padded: bool, kind: str, seed: int
) -> None:
    x, step = randn(4, channels, 3, 3, seed=seed).pow(3) + seed % 7, torch.tensor([0, 1, 0, 1])
    if kind == "constant":
        x[:, 0] = seed / 100
    elif kind == "dead":
        x[:, 0] = 0
    elif kind == "far":
        x[:, -1] += 1e4
    elif kind == "all dead":
        x = torch.zeros_like(x)
    quantizer = fitted(x, step, n_bits, max_exponent, padded, n_steps=2)
    scale, zero_point = quantizer.parameters_of(x)
    assert ((quantizer(x) - x).abs() <= scale / 2 + x.abs() * 1e-6).all()
    assert set(quantizer.multiple.tolist()) <= set(
        possible_multiples(n_bits, max_exponent).tolist()
    )
    qmax = 2**n_bits - 1
    for used_or_stored in (zero_point, quantizer.zero_point):
        assert used_or_stored.min() >= (0 if padded else -qmax)
        assert used_or_stored.max() <= (qmax if padded else 2 * qmax)
    if padded:
        assert torch.equal(quantizer(torch.zeros_like(x)), torch.zeros_like(x))


def test_multiples_lose_less_than_exponents_of_the_same_room() -> None:
    x = uneven(4, 64, 4, 4)
    quantizer = fitted(x, n_bits=4, max_exponent=6)
    activations = ActivationSettings(4, "exponents", max_exponent=6)
    rival = ExponentQuantizer(activations, quantizer.context)
    rival.observer = quantizer.observer
    rival.fit_()
    ours, theirs = ((q(x) - x).pow(2).sum() for q in (quantizer, rival))
    assert ours < 0.8 * theirs


@pytest.mark.parametrize(
    ("n_bits", "symmetric", "on_weights", "on_activations"),
    [(8, False, 1, 2), (8, True, 2, 2), (6, True, 2, 4), (4, True, 2, 6), (4, False, 3, 2)],
)
def test_a_layer_is_one_integer_product(
    n_bits: int, symmetric: bool, on_weights: int, on_activations: int
) -> None:
    x = uneven(16, 37)[:, None]  # [rows, 1 token, channels]
    quantizer = fitted(x, n_bits=n_bits, max_exponent=on_activations)
    assert len(set(quantizer.multiple.tolist())) > 2
    weight = randn(9, 37, seed=1).pow(3)
    group_settings = WeightSettings(
        4, "minmax", symmetric=symmetric, group_size=8, max_exponent=on_weights
    )
    weights = WeightQuantizer(group_settings, weight.shape)
    weights.start_learning_(weight)
    weights.harden_(None)
    simulated = nn.functional.linear(quantizer(x)[:, 0].double(), weights(None)[0].double())
    found = folded_product(quantizer, weights, x[:, 0].double().numpy())
    size = np.abs(simulated.numpy()).max()
    np.testing.assert_allclose(found, simulated.numpy(), rtol=1e-5, atol=1e-5 * size)


def folded_product(quantizer: MultipleQuantizer, weights: WeightQuantizer, x: Any) -> np.ndarray:
    """A linear layer in whole numbers: ``x [rows, channels]``."""
    n_bits, channels = quantizer.settings.n_bits, x.shape[1]
    scale, zero_point = float(quantizer.scale[0]), quantizer.zero_point[0].long().numpy()
    multiple = quantizer.multiple.long().numpy()
    q = np.rint(x / (scale * multiple)).astype(np.int64) + zero_point
    q = q.clip(0, 2**n_bits - 1)
    shared = shared_multiple(quantizer.multiple, n_bits, quantizer.settings.max_exponent)
    on_codes, on_weights = (factor.numpy() for factor in shared)
    codes = torch.stack([weights.codes & 15, weights.codes >> 4], -1).flatten(1)[:, :channels]
    groups = np.arange(channels) // weights.settings.group_size
    shift = weights.settings.max_exponent - weights.exponent.long().numpy()[:, groups]
    difference = codes.long().numpy() - weights.zero_point.long().numpy()[:, None]
    folded = (difference << shift) * on_weights
    assert (q * on_codes).max() <= 255
    assert folded.min() >= -128
    assert folded.max() <= 127
    accumulated = (q * on_codes) @ folded.T - ((zero_point * on_codes) * folded).sum(1)
    return (
        scale * weights.scale.double().numpy() * 2.0**-weights.settings.max_exponent * accumulated
    )


def test_learning_lowers_the_error_of_few_bits() -> None:
    x, held_out = uneven(64, 6, 4, 4), uneven(64, 6, 4, 4, seed=1)
    quantizer = fitted(x, n_bits=3)
    before = (quantizer(held_out) - held_out).square().mean()
    quantizer.start_learning_()
    assert quantizer.learnable is not None
    optimizer = torch.optim.Adam(quantizer.learnable.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    learned = quantizer(held_out)
    quantizer.harden_()
    assert (learned - held_out).square().mean() < 0.9 * before
    torch.testing.assert_close(quantizer(held_out), learned)
    assert quantizer.zero_point.dtype == torch.int32
