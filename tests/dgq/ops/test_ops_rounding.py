"""Learned rounding of weights: gradients against autograd, and our kernels against torch."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq import ops
from dgq.math.rounding import rounding_logits, soft_rounding
from dgq.ops import reference
from dgq.quantizers.soft_weight import rounding_penalty, soft_weight
from tests.left_to_torch import compiled, is_left_to_torch

BITS = 4
FACTORS = (None, "of all rows", "of each row")
NAMES = ("soft_weight", "soft_weight_gradients", "rounding_penalty")


def operands(seed: int, rows: int, columns: int, factors: str | None) -> dict[str, list[Any]]:
    """Arguments of each operator; no rounding is within rounding errors of an end."""
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.rand(rows, columns, generator=generator) - 3
    logits += logits.sign() * (soft_rounding(logits) * (1 - soft_rounding(logits)) < 1e-3)
    floor = torch.randint(-4, 2**BITS + 3, (rows, columns), generator=generator).float()
    zero_point = torch.randint(0, 2**BITS, (rows,), generator=generator).float()
    scale = torch.rand(rows, generator=generator) + 0.1
    shape = {None: None, "of all rows": (1, columns), "of each row": (rows, columns)}[factors]
    factor = None if shape is None else torch.rand(shape, generator=generator)
    weight = [logits, floor, zero_point, scale, factor, 2**BITS - 1]
    gradient = torch.randn(rows, columns, generator=generator)
    return {
        "soft_weight": weight,
        "soft_weight_gradients": [gradient, *weight],
        "rounding_penalty": [logits, 2 + 18 * float(torch.rand((), generator=generator))],
    }


def outputs(operator: Any, arguments: list[Any]) -> tuple[Tensor, ...]:
    found = operator(*arguments)
    return found if isinstance(found, tuple) else (found,)


def doubled(arguments: list[Any]) -> list[Any]:
    return [x.double() if isinstance(x, Tensor) else x for x in arguments]


def assert_near(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], most: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=3e-5, atol=most)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    rows=st.integers(1, 9),
    columns=st.integers(1, 70),
    factors=st.sampled_from(FACTORS),
)
def test_kernels_compute_what_the_reference_does(
    name: str, seed: int, rows: int, columns: int, factors: str | None
) -> None:
    each = operands(seed, rows, columns, factors)[name]
    expected = outputs(getattr(reference, name), doubled(each))
    assert_near(outputs(getattr(ops, name), each), expected, 3e-5)


@pytest.mark.parametrize("factors", FACTORS)
def test_several_blocks_and_threads_compute_the_same(factors: str | None) -> None:
    """Rows of more than one block of the reference, and enough for threads of the kernels."""
    for name, each in operands(0, 120, 5000, factors).items():
        expected = outputs(getattr(reference, name), doubled(each))
        for library in (reference, ops):  # whose sums have 5,000 terms
            assert_near(outputs(getattr(library, name), each), expected, 1e-3)


@pytest.mark.parametrize("factors", FACTORS)
def test_gradients_of_a_soft_weight_are_those_of_its_formula(factors: str | None) -> None:
    logits, floor, zero_point, scale, factor, largest = doubled(
        operands(1, 7, 30, factors)["soft_weight"]
    )
    learned = [logits.requires_grad_(), scale.requires_grad_()]
    codes = (floor + soft_rounding(logits)).clamp(0, largest)
    formula = (codes - zero_point[:, None]) * scale[:, None] * (1 if factor is None else factor)
    weight = soft_weight(logits, floor, zero_point, scale, factor, largest)
    torch.testing.assert_close(weight, formula)
    gradient = torch.randn_like(weight)
    expected = torch.autograd.grad(formula, learned, gradient)
    torch.testing.assert_close(torch.autograd.grad(weight, learned, gradient), expected)
    assert all(bool(each.any()) for each in expected)


@pytest.mark.parametrize("temperature", [2.0, 7.5, 20.0])
def test_the_penalty_and_its_gradient_are_those_of_its_formula(temperature: float) -> None:
    (logits, _) = doubled(operands(2, 7, 30, None)["rounding_penalty"])
    logits.requires_grad_()
    formula = (1 - (2 * soft_rounding(logits) - 1).abs() ** temperature).sum()
    penalty = rounding_penalty(logits, temperature)
    torch.testing.assert_close(penalty, formula)
    (expected,) = torch.autograd.grad(3 * formula, logits)
    torch.testing.assert_close(torch.autograd.grad(3 * penalty, logits)[0], expected)


@pytest.mark.parametrize("plain", [False, True])
def test_the_penalty_vanishes_for_decided_roundings_and_is_1_at_a_half(plain: bool) -> None:
    penalty = reference.rounding_penalty if plain else ops.rounding_penalty
    decided = torch.tensor([[-30.0, 30.0, 40.0]])
    assert penalty(decided, 5.0)[0] == 0
    assert not penalty(decided, 5.0)[1].any()
    value, gradient = penalty(torch.tensor([[0.0]]), 5.0)
    assert value == 1
    assert abs(gradient.item()) < 1e-20


def test_the_penalty_pushes_away_from_one_half() -> None:
    _, gradient = ops.rounding_penalty(torch.tensor([[-0.3, 0.3]]), 2.0)
    assert gradient[0, 0] > 0 > gradient[0, 1]


@pytest.mark.parametrize("factors", FACTORS)
def test_the_start_is_the_weight_itself(factors: str | None) -> None:
    """Within the range of the codes, before anything is learned."""
    _, _, zero_point, scale, factor, largest = operands(3, 5, 40, factors)["soft_weight"]
    ratio = largest * torch.rand(5, 40) - zero_point[:, None]
    weight = ratio * scale[:, None] * (1 if factor is None else factor)
    floor = ratio.floor() + zero_point[:, None]
    found = ops.soft_weight(rounding_logits(ratio), floor, zero_point, scale, factor, largest)
    torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-5)


def test_weights_that_start_at_an_end_are_learned() -> None:
    """Zero and all other whole weights: their fraction is 0, the end of the soft rounding."""
    ratio = torch.arange(-8.0, 248)[None]
    weight = (rounding_logits(ratio), ratio.floor() + 8, torch.zeros(1), torch.ones(1), None, 255)
    for library in (ops, reference):
        of_logits, _ = library.soft_weight_gradients(torch.ones_like(ratio), *weight)
        assert bool((of_logits > 0).all())
        assert bool((library.rounding_penalty(weight[0], 20.0)[1] > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_where_it_is(name: str) -> None:
    each = operands(4, 3, 20, None)[name]
    each[0 if name != "soft_weight_gradients" else 1][1, 7] = torch.nan
    for found, plain in zip(
        outputs(getattr(ops, name), each), outputs(getattr(reference, name), each), strict=True
    ):
        assert torch.equal(found.isnan(), plain.isnan())
        assert bool(found.isnan().any())


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_what_kernels_do_not_read_is_left_to_torch(name: str) -> None:
    each = operands(5, 3, 20, "of each row")[name]
    assert not is_left_to_torch(getattr(ops, name), *each)
    assert is_left_to_torch(getattr(ops, name), *doubled(each))
    turned = [x.mT.contiguous().mT if isinstance(x, Tensor) and x.ndim == 2 else x for x in each]
    assert not is_left_to_torch(getattr(ops, name), *turned)
    for found, expected in zip(
        outputs(getattr(ops, name), turned), outputs(getattr(ops, name), each), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("wrong", [1, 2, 3, 4])
def test_operands_that_do_not_fit_are_refused(wrong: int) -> None:
    each = operands(6, 3, 20, "of each row")["soft_weight"]
    each[wrong] = torch.cat([each[wrong], each[wrong]])
    with pytest.raises(RuntimeError):
        ops.soft_weight(*each)


@pytest.mark.parametrize("name", NAMES)
def test_the_operators_are_complete(name: str) -> None:
    each = operands(7, 3, 20, "of all rows")[name]
    torch.library.opcheck(getattr(torch.ops.dgq, name).default, tuple(each))
    turned = (x.mT.contiguous().mT if isinstance(x, Tensor) and x.ndim == 2 else x for x in each)
    torch.library.opcheck(getattr(torch.ops.dgq, name).default, tuple(turned))
