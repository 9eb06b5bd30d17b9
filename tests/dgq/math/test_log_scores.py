"""Logarithmic scores against the formula, one number at a time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dgq.math.log_scores import (
    live_maximum,
    log_quantize,
    log_quantize_but_start,
    log_quantize_live,
)


def scores(batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(batch, 2, 4, 6, generator=generator) * 3).softmax(-1)


def by_hand(p: float, d: float, n_bits: int) -> float:
    if p == 0:
        return 0.0
    exponent = min(max(round(-math.log2(p / d)), 0), 2**n_bits - 1)
    return d * 2.0**-exponent


@pytest.mark.parametrize("n_bits", [2, 3, 4, 8])
def test_equals_the_formula_under_each_samples_own_maximum(n_bits: int) -> None:
    p = scores()
    for sample, quantized in zip(p, log_quantize_live(p, n_bits), strict=True):
        d = max(sample.flatten().tolist())
        expected = [by_hand(x, d, n_bits) for x in sample.flatten().tolist()]
        assert quantized.flatten().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("quantize", [log_quantize_live, log_quantize_but_start])
def test_without_gradients_the_bits_are_the_same_and_the_input_stays(
    quantize: Callable[[Tensor, int], Tensor],
) -> None:
    p = scores()
    p[0, 0, 0, 3], p[1, 1] = 0.0, 0.0
    before = p.clone()
    with torch.no_grad():
        quantized = quantize(p, 3)
    assert torch.equal(quantized, quantize(p, 3))
    assert torch.equal(p, before)


@pytest.mark.parametrize("quantize", [log_quantize_live, log_quantize_but_start])
def test_gradients_pass_straight_through_even_where_scores_are_zero(
    quantize: Callable[[Tensor, int], Tensor],
) -> None:
    # Behind a strong start token the others underflow: a logarithm of zero has no gradient.
    logits = torch.tensor([[200.0, 0.0, 90.0, 91.0], [1.0, 0.0, 2.0, 3.0]]).view(1, 1, 2, 4)
    p = logits.softmax(-1).requires_grad_()
    assert (p == 0).sum() == 3
    weight = torch.arange(8.0).view_as(p)
    (quantize(p, 4) * weight).sum().backward()
    assert p.grad is not None
    assert torch.equal(p.grad, weight)


def test_the_maximum_is_kept_and_the_rest_are_powers_of_two_below_it() -> None:
    p = scores(1)
    exponents = -torch.log2(log_quantize_live(p, 8) / p.max())
    torch.testing.assert_close(exponents, exponents.round())
    assert log_quantize_live(p, 8).max() == p.max()


def test_scores_far_below_the_maximum_are_held_at_the_last_code() -> None:
    quantized = log_quantize(torch.tensor([1.0, 1e-9]), torch.tensor(1.0), 2)
    assert quantized.tolist() == [1.0, 0.125]


@pytest.mark.parametrize("n_bits", [2, 8])
def test_zeros_stay_zeros_even_in_rows_of_zeros(n_bits: int) -> None:
    p = scores()
    p[:, :, 1] = 0
    p[0] = 0
    quantized = log_quantize_live(p, n_bits)
    assert quantized.isfinite().all()
    assert torch.equal(quantized == 0, p == 0)


def test_maximum_is_taken_for_each_sample() -> None:
    p = scores()
    assert live_maximum(p).flatten().tolist() == [sample.max().item() for sample in p]


@pytest.mark.parametrize("quantize", [log_quantize_live, log_quantize_but_start])
def test_a_sample_does_not_depend_on_the_others_of_its_batch(
    quantize: Callable[[Tensor, int], Tensor],
) -> None:
    p = scores(4)
    p[2] *= 1e-3
    alone = torch.cat([quantize(p[i : i + 1], 3) for i in range(4)])
    assert torch.equal(quantize(p, 3), alone)


def test_start_token_passes_and_the_maximum_is_that_of_the_rest() -> None:
    p = scores(2)
    p[..., 0] = 0.999
    quantized = log_quantize_but_start(p, 3)
    assert torch.equal(quantized[..., 0], p[..., 0])
    for sample, found in zip(p, quantized, strict=True):
        d = sample[..., 1:].max().item()
        assert d < 0.999
        expected = [by_hand(x, d, 3) for x in sample[..., 1:].flatten().tolist()]
        assert found[..., 1:].flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_a_context_of_the_start_token_alone_passes() -> None:
    p = torch.ones(2, 1, 4, 1)
    assert torch.equal(log_quantize_but_start(p, 4), p)
