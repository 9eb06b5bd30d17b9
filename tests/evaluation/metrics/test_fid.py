"""FID against pytorch-fid's formula, and what it says about few images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.features.features import Features
from evaluation.features.gaussian import Gaussian, fit_gaussian
from evaluation.features.references import References
from evaluation.features.sample import Sample
from evaluation.images.store import ImageStore
from evaluation.metrics.fid import Fid, FidToFullPrecision, frechet_distance
from evaluation.metrics.metric import Metric, NotMeasuredError, Value


def features(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator)
    shift = torch.randn(d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mixing + shift


def by_pytorch_fid(a: np.ndarray, b: np.ndarray) -> float:
    """Its formula, with scipy's matrix root."""
    mu_a, mu_b = a.mean(0), b.mean(0)
    sigma_a, sigma_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b)
    trace = np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.trace(root.real)
    return float((mu_a - mu_b) @ (mu_a - mu_b) + trace)


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 80), st.integers(30, 80), st.integers(2, 12), st.integers(0, 10_000))
def test_fid_equals_pytorch_fid_to_1e_5(n: int, m: int, d: int, seed: int) -> None:
    a, b = features(n, d, seed), features(m, d, seed + 1)
    expected = by_pytorch_fid(a.double().numpy(), b.double().numpy())
    assert frechet_distance(fit_gaussian(a), fit_gaussian(b)) == pytest.approx(expected, rel=1e-5)


def test_singular_covariances_have_the_exact_distance() -> None:
    # With fewer images than features a matrix root by scipy is off; this one is known in advance:
    # two subspaces at right angles, so that tr (S_a S_b)^(1/2) is nothing.
    a, b = torch.zeros(5, 8), torch.zeros(5, 8)
    a[:, :4], b[:, 4:] = features(5, 4, 0), features(5, 4, 1)
    ga, gb = fit_gaussian(a), fit_gaussian(b)
    means = (ga.mean - gb.mean).square().sum()
    expected = means + ga.covariance.trace() + gb.covariance.trace()
    assert frechet_distance(ga, gb) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(ga, ga) == pytest.approx(0, abs=1e-9)


def test_distances_are_symmetric_and_zero_between_equals() -> None:
    a, b = fit_gaussian(features(50, 6, 0)), fit_gaussian(features(40, 6, 1))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    for seed in range(8):  # half of them would round to less
        equal = fit_gaussian(features(20, 40, seed))
        assert 0 <= frechet_distance(equal, equal) < 1e-9


def test_rounding_errors_of_many_features_do_not_add_up() -> None:
    """The root of an eigenvalue of 1e-16 is 1e-8, and there are as many as features."""
    few = fit_gaussian(features(5, 200, 0))
    scale = few.covariance.trace().item()
    assert abs(frechet_distance(few, few)) < 1e-12 * scale
    shifted = Gaussian(few.mean + 1, few.covariance)
    assert frechet_distance(few, shifted) == pytest.approx(200, abs=1e-12 * scale)


def test_few_images_are_noted_whether_drawn_or_real(tmp_path: Path) -> None:
    def notes(n: int, n_real: int | None) -> list[str]:
        real = features(max(n_real or 9, 2), 4, 1)
        references = References("real", fit_gaussian(real), real, n_real)
        store = ImageStore(tmp_path, "model", {}, ["a"] * n)
        sample = Sample(store, Features(features(n, 4, 0)), references=references)
        return list(Fid().notes(sample))

    assert notes(5, 5) == notes(5, None) == []
    assert [note.partition(":")[0] for note in notes(4, 4)] == [
        "FID rests on 4 images for 4 features",
        "FID rests on 4 real images for 4 features",
    ]
    assert len(notes(2, 5)) == len(notes(5, 2)) == len(notes(2, None)) == 1
    assert len(notes(2, 2)) == 2
    assert notes(1, 2) == []  # there is no FID of one


@pytest.mark.parametrize("metric", [Fid(), FidToFullPrecision()], ids=["real", "paired"])
def test_two_images_are_the_least(metric: Metric, tmp_path: Path) -> None:
    references = References("real", fit_gaussian(features(2, 4, 0)))

    def measured(n: int) -> Value:
        store = ImageStore(tmp_path, "model", {}, ["a"] * n)
        sample = Sample(store, Features(features(n, 4, 0)), references=references)
        return metric.compute(replace(sample, full_precision=sample))[metric.key]

    assert measured(2) == pytest.approx(0, abs=1e-9)
    with pytest.raises(NotMeasuredError, match="at least two images"):
        measured(1)
