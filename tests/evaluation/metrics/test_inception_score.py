"""The Inception score against its formula, written down a second time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.features.features import Features
from evaluation.features.sample import Sample
from evaluation.images.store import ImageStore
from evaluation.metrics.inception_score import InceptionScore, inception_score
from evaluation.metrics.metric import NotMeasuredError


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


def test_as_many_images_as_splits_are_the_least(tmp_path: Path) -> None:
    def measured(n: int) -> float:
        store = ImageStore(tmp_path, "model", {}, ["a"] * n)
        sample = Sample(store, Features(logits=torch.randn(n, 5)))
        return InceptionScore(3).compute(sample)["inception_score"]  # type: ignore[return-value]

    assert measured(3) == pytest.approx(1)  # one image agrees with itself
    with pytest.raises(NotMeasuredError, match="2 images cannot be split into 3 parts"):
        measured(2)
