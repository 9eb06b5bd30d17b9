"""Each metric against its formula, written down a second time."""

import numpy as np
import pytest
import torch

from evaluation.metrics import (
    clip_scores,
    inception_score,
    kernel_distance,
    paired_kernel_distance,
    ssim,
)


def inception_score_by_hand(logits: np.ndarray, splits: int) -> float:
    """torch-fidelity's: shuffled with its seed, split, exponential of the mean divergence."""
    order = np.random.RandomState(2020).permutation(len(logits))
    e = np.exp(logits - logits.max(1, keepdims=True))
    p = (e / e.sum(1, keepdims=True))[order]
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        divergence = (part * (np.log(part) - np.log(part.mean(0)))).sum(1)
        scores.append(np.exp(divergence.mean()))
    return float(np.mean(scores))


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_inception_score_equals_torch_fidelitys(splits: int) -> None:
    logits = 3 * torch.randn(37, 5, generator=torch.Generator().manual_seed(0))
    expected = inception_score_by_hand(logits.double().numpy(), splits)
    assert inception_score(logits, splits) == pytest.approx(expected, rel=1e-9)


def test_inception_score_of_confident_and_diverse_images_is_the_number_of_classes() -> None:
    assert inception_score(1000 * torch.eye(7), 1) == pytest.approx(7, rel=1e-9)


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


def test_clip_scores_are_cosines_that_are_not_negative() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    images = torch.tensor([[3.0, 4.0], [0.0, 0.5], [-1.0, 0.1]])
    torch.testing.assert_close(clip_scores(images, texts), torch.tensor([60.0, 100.0, 0.0]))


def test_ssim_of_each_image() -> None:
    a = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    b = a.clone()
    b[1] = 1 - a[1]
    values = ssim(a, b)
    assert values[[0, 2]].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert values[1] < 0
    assert ssim(a[:1], b[:1]).shape == (1,)
