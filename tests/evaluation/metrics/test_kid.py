"""KID against its formula, written down a second time."""

import numpy as np
import pytest
import torch

from evaluation.metrics.kid import kernel_distance, paired_kernel_distance


def mmd_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared distance of two sets with the kernel of KID."""
    n, d = x.shape

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / d + 1) ** 3)

    within = [sum(k(s[i], s[j]) for i in range(n) for j in range(n) if i != j) for s in (x, y)]
    across = sum(k(a, b) for a in x for b in y)
    return sum(within) / (n * (n - 1)) - 2 * across / n**2


def test_kid_of_equally_many_images_is_the_unbiased_distance() -> None:
    x, y = torch.randn(12, 4), torch.randn(12, 4) + 0.5
    expected = mmd_by_hand(x.double().numpy(), y.double().numpy())
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_kid_leaves_the_random_state_alone_and_repeats_itself() -> None:
    x, y = torch.randn(30, 4), torch.randn(12, 4)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert kernel_distance(x, y) == kernel_distance(x, y)
    assert torch.equal(torch.rand(1), expected)


def test_kid_of_pairs_leaves_pairs_out() -> None:
    x = torch.randn(9, 3, dtype=torch.float64)
    y = x + 0.1 * torch.randn(9, 3, dtype=torch.float64)
    n, d = x.shape

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a @ b / d + 1) ** 3)

    terms = [
        k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    assert paired_kernel_distance(x, y) == pytest.approx(sum(terms) / (n * (n - 1)), rel=1e-9)
    assert paired_kernel_distance(x, x) == pytest.approx(0, abs=1e-12)


def test_kid_of_many_pairs_is_averaged_over_parts() -> None:
    x, y = torch.randn(1500, 3), torch.randn(1500, 3) + 1
    parts = [paired_kernel_distance(x[s], y[s]) for s in (slice(0, 750), slice(750, 1500))]
    assert paired_kernel_distance(x, y) == pytest.approx(np.mean(parts), rel=1e-9)


def test_the_subsets_are_the_same_whatever_was_drawn_before() -> None:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(60, 4, generator=generator)
    features = torch.randn(20, 4, generator=generator)
    values = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.add(kernel_distance(reference, features))
        after = torch.rand(())
        torch.manual_seed(seed)
        assert torch.rand(()) == after  # and the global generator is left as it was
    assert len(values) == 1
