"""Bits are shared out within all budgets, nearly as well as by trying everything."""

from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.errors import DGQError
from dgq.mixed_precision.allocation import allocate


def exhaustive(noise: Tensor, costs: Tensor, budgets: Tensor) -> float:
    """The least total noise of all choices that fit."""
    items = range(len(noise))
    totals = (
        float(sum(noise[i, k] for i, k in zip(items, choice, strict=True)))
        for choice in product(range(noise.shape[1]), repeat=len(noise))
        if bool((sum(costs[i, k] for i, k in zip(items, choice, strict=True)) <= budgets).all())
    )
    return min(totals)


def layers_of(seed: int, n_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Layers of random sizes whose noise falls fourfold with each of 2 to 5 bits; 3 on average."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.arange(2, 6, dtype=torch.float64)
    first = 10 ** (4 * torch.rand(n_items, 1, generator=generator, dtype=torch.float64))
    sizes = torch.randint(1, 20, (n_items, 1, 2), generator=generator).double()
    costs = sizes * bits[None, :, None]
    return first * 4.0**-bits, costs, 3 * sizes.sum((0, 1))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), n_items=st.integers(2, 5))
@example(seed=49792563, n_items=4)  # shares of all of a budget that add up to more than 1
def test_it_is_near_the_best_of_all_choices(seed: int, n_items: int) -> None:
    noise, costs, budgets = layers_of(seed, n_items)
    chosen = allocate(noise, costs, budgets)
    items = torch.arange(n_items)
    assert bool((costs[items, chosen].sum(0) <= budgets * (1 + 1e-9)).all())
    total = float(noise[items, chosen].sum())
    best = exhaustive(noise, costs, budgets)
    assert best * (1 - 1e-9) <= total
    # What a convex hull misses is at most the largest step of one layer.
    assert total <= best + float((noise[:, :-1] - noise[:, 1:]).max())
    assert total <= float(noise[:, 1].sum()) * (1 + 1e-9)  # 3 bits everywhere fit, too


def layers_with_inputs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Six layers under three budgets: bits of weights, bit operations, and bits of activations."""
    generator, n = torch.Generator().manual_seed(seed), 6
    weights, inputs = torch.cartesian_prod(torch.tensor([2.0, 4, 6]), torch.tensor([4.0, 8])).T
    of_weights, of_inputs = 10 ** (3 * torch.rand(2, n, 1, generator=generator))
    noise = of_weights * 4**-weights + of_inputs * 4**-inputs
    sizes, macs = torch.randint(1, 20, (2, n, 1), generator=generator).float()
    costs = torch.stack([sizes * weights, macs * weights * inputs, macs * inputs], -1)
    return noise, costs, torch.stack([4 * sizes.sum(), 4 * 6 * macs.sum(), 6 * macs.sum()])


def test_three_budgets_are_spent_nearly_as_well_as_possible() -> None:
    """The noise beyond that of the best of all 46,656 choices, over 40 draws."""
    items, every = torch.arange(6), torch.cartesian_prod(*[torch.arange(6)] * 6)
    excess = []
    for seed in range(40):
        noise, costs, budgets = layers_with_inputs(seed)
        fits = (costs[items, every].sum(1) <= budgets).all(-1)
        best = noise[items, every].sum(1)[fits].min()
        chosen = allocate(noise, costs, budgets)
        assert (costs[items, chosen].sum(0) <= budgets).all()
        excess.append(float(noise[items, chosen].sum() / best) - 1)
    assert sum(excess) / len(excess) < 0.005
    assert max(excess) < 0.1


def test_many_layers_gain_what_theory_says() -> None:
    """Noise ``c 4^-b``: bits ``log4 c`` apart leave the geometric mean of the noise."""
    n = 400
    exponent = torch.arange(n, dtype=torch.float64) % 5 - 2  # half steps would not be whole bits
    bits = torch.arange(1, 12, dtype=torch.float64)
    noise = 4.0 ** exponent[:, None] * 4.0**-bits
    costs = bits[None, :, None].expand(n, -1, 2)
    chosen = allocate(noise, costs, torch.full((2,), 6.0 * n, dtype=torch.float64))
    assert torch.equal(bits[chosen], 6 + exponent)


def test_options_that_do_not_exist_are_not_chosen() -> None:
    noise = torch.tensor([[1.0, torch.inf], [1.0, 0.5]])
    chosen = allocate(noise, torch.ones(2, 2, 2), torch.tensor([2.0, 2.0]))
    assert chosen.tolist() == [0, 1]


def test_a_budget_below_the_cheapest_is_refused() -> None:
    noise, costs, budgets = layers_of(0, 3)
    with pytest.raises(DGQError, match="no choice of bits stays within the budget"):
        allocate(noise, costs, budgets / 2)
