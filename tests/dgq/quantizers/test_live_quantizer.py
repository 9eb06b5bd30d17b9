"""Live ranges: the formula by loops, and what tables of steps cannot do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.math.multiples import possible_multiples
from dgq.quantizers.live_quantizer import LiveQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.calls import SamplerCall
from dgq.unet.context import QuantizationContext
from tests.observed import uneven


def fitted(x: Tensor, n_bits: int = 6, max_exponent: int = 4) -> LiveQuantizer:
    """A quantizer whose multiples were chosen for ``x``."""
    context = QuantizationContext((900.0, 100.0), (4, 4))
    activations = ActivationSettings(n_bits, "live", max_exponent=max_exponent)
    quantizer = LiveQuantizer(activations, context)
    context.observing, context.activations = True, False
    quantizer.start_observing_()
    for step in (0, 1):
        context.current = SamplerCall(torch.tensor([step]), (4, 4))
        quantizer(x)
    quantizer.fit_()
    context.observing, context.activations = False, True
    return quantizer


def by_loops(
    x: np.ndarray, multiple: list[int], n_bits: int, gain: float, shift: list[int]
) -> np.ndarray:
    """One sample, ``[channels, pixels]``, by the definition."""
    largest, ends = 2**n_bits - 1, [(min(c.min(), 0), max(c.max(), 0)) for c in x]
    finest = max((high - low) / m for (low, high), m in zip(ends, multiple, strict=True)) / largest
    finest *= gain
    quantized = np.empty_like(x)
    for c, m in enumerate(multiple):
        scale = finest * m
        centred = np.rint((largest - x[c].min() / scale - x[c].max() / scale) / 2)
        zero_point = min(max(centred + shift[c], 0), largest)
        codes = np.clip(np.rint(x[c] / scale) + zero_point, 0, largest)
        quantized[c] = scale * (codes - zero_point)
    return quantized


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("shape", [(3, 6, 4, 5), (3, 7, 6), (3, 6)])
def test_each_sample_equals_the_definition_by_loops(shape: tuple[int, ...], learned: bool) -> None:
    x = uneven(shape[0], 6, *(shape[2:] if len(shape) == 4 else shape[1:2]))
    x = x if len(shape) == 4 else x.transpose(1, 2) if len(shape) == 3 else x[..., 0] - 3
    quantizer = fitted(x)
    n_channels = quantizer.multiple.numel()
    assert n_channels == (1 if x.ndim == 2 else 6)
    gain, shift = 1.0, [0] * n_channels
    if learned:
        gain, shift = 0.75, [5, -3, 70, -70, 1, 0][:n_channels]
        quantizer.scale, quantizer.zero_point = torch.tensor([gain]), torch.tensor([shift])
    for sample, found in zip(x.double(), quantizer(x), strict=True):
        rows = sample.flatten(1) if x.ndim == 4 else sample.t() if x.ndim == 3 else sample[None]
        expected = by_loops(rows.numpy(), quantizer.multiple.tolist(), 6, gain, shift)
        rows = found.flatten(1) if x.ndim == 4 else found.t() if x.ndim == 3 else found[None]
        np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_multiples_follow_the_widths_of_the_channels_with_zero_in_each() -> None:
    ends = torch.tensor([[-1.0, 1.0], [-2.0, 2.0], [-4.0, -3.0], [1.0, 16.0]])
    assert fitted(ends.view(1, 4, 2, 1)).multiple.tolist() == [2, 4, 4, 16]


@settings(max_examples=50, deadline=None)
@given(
    n_bits=st.sampled_from([2, 4, 6, 8]),
    max_exponent=st.integers(0, 6),
    size=st.floats(-20, 20),
    seed=st.integers(0, 1000),
)
def test_nothing_is_clipped_at_any_size_and_zero_stays_zero(
    n_bits: int, max_exponent: int, size: float, seed: int
) -> None:
    quantizer = fitted(uneven(2, 5, 3, 3, seed=seed), n_bits, max_exponent)
    x = uneven(2, 5, 3, 3, seed=seed + 1) * 2**size
    x[:, :, 0, 0] = 0
    scale, zero_point = quantizer.parameters_of(x)
    assert int(zero_point.min()) >= 0
    assert int(zero_point.max()) < 2**n_bits
    assert torch.isin(quantizer.multiple, possible_multiples(n_bits, max_exponent)).all()
    error = (quantizer(x) - x).abs()
    # A code that half a step of rounding pushes over the end is another half.
    assert bool((error <= scale * 1.0001).all())
    assert not quantizer(x)[:, :, 0, 0].any()


def test_the_step_does_not_matter_and_neither_do_other_samples() -> None:
    x = uneven(4, 6, 3, 3)
    x[1] *= 30
    quantizer = fitted(x)
    together = quantizer(x)
    for step in (0, 1):
        quantizer.context.current = SamplerCall(torch.tensor([step]), (4, 4))
        alone = torch.cat([quantizer(row) for row in x.split(1)])
        assert torch.equal(alone, together)


@pytest.mark.parametrize("exponent", [-12, 3, 9])
def test_what_is_larger_by_a_power_of_two_is_quantized_just_so(exponent: int) -> None:
    x = uneven(2, 6, 3, 3)
    quantizer = fitted(x)
    assert torch.equal(quantizer(x * 2.0**exponent), quantizer(x) * 2.0**exponent)


def test_the_gradient_of_an_activation_is_the_identity_and_passes_no_range() -> None:
    x = uneven(2, 6, 3, 3).requires_grad_()
    quantizer = fitted(x.detach())
    (gradient,) = torch.autograd.grad((quantizer(x) * x.detach()).sum(), x)
    clipped = gradient == 0
    torch.testing.assert_close(gradient[~clipped], x.detach()[~clipped])
    assert clipped.float().mean() < 0.05


def test_dead_samples_pass_as_zeros() -> None:
    quantizer = fitted(uneven(2, 6, 3, 3))
    assert not quantizer(torch.zeros(2, 6, 3, 3)).any()


def test_what_is_learned_is_relative_to_the_samples_own_range_and_is_kept() -> None:
    x = uneven(4, 6, 3, 3)
    quantizer = fitted(x, 4)
    before = quantizer(x).detach()
    quantizer.start_learning_()
    assert torch.equal(quantizer(x).detach(), before)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.02)
    for _ in range(30):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    learned = quantizer(x).detach()
    assert (learned - x).square().mean() < (before - x).square().mean()
    quantizer.harden_()
    assert quantizer.scale.shape == (1,)
    assert quantizer.zero_point.shape == (1, 6)
    assert torch.equal(quantizer(x).detach(), learned)
    assert torch.equal(quantizer(4 * x).detach(), 4 * learned)
