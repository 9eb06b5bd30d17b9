"""FID against pytorch-fid's formula, and the statistics that it stores."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgq.errors import DGQError
from evaluation.gaussian import (
    Gaussian,
    fit_gaussian,
    frechet_distance,
    is_covariance,
    load_gaussian,
)


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


def test_statistics_as_pytorch_fid_stores_them(tmp_path: Path) -> None:
    real = features(60, 5, 0).double().numpy()
    np.savez(tmp_path / "real.npz", mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    loaded, fitted = load_gaussian(tmp_path / "real.npz"), fit_gaussian(torch.from_numpy(real))
    torch.testing.assert_close(loaded.mean, fitted.mean)
    torch.testing.assert_close(loaded.covariance, fitted.covariance)
    assert loaded.dimensions == 5


def test_what_holds_no_statistics_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, mu=np.zeros(3), sigma=np.eye(3))
    cases = {
        "names": {"mean": np.zeros(3)},
        "shape": {"mu": np.zeros(3), "sigma": np.eye(4)},
        "object": {"mu": np.array([None]), "sigma": np.eye(1)},
        "nan": {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
        "none": {"mu": np.zeros(0), "sigma": np.zeros((0, 0))},
    }
    for name, content in cases.items():
        np.savez(tmp_path / f"{name}.npz", **content)
    (tmp_path / "text.npz").write_text("nothing")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:100])
    for name in [*cases, "text", "empty", "cut", "missing"]:
        with pytest.raises(DGQError, match="statistics") as error:
            load_gaussian(tmp_path / f"{name}.npz")
        assert name in str(error.value)


@pytest.mark.parametrize(
    "sigma",
    [
        -np.eye(3),
        np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    ],
    ids=["negative", "not symmetric", "indefinite"],
)
def test_what_is_no_covariance_is_refused(sigma: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", mu=np.zeros(3), sigma=sigma)
    with pytest.raises(DGQError, match=r"real\.npz holds a sigma that is no covariance"):
        load_gaussian(tmp_path / "real.npz")


@given(st.integers(1, 12), st.integers(2, 20), st.sampled_from(["float32", "float64"]))
def test_every_covariance_of_features_is_one(d: int, n: int, dtype: str) -> None:
    """Singular ones too, rounded to float32."""
    sigma = fit_gaussian(features(n, d, d * n)).covariance
    assert is_covariance(sigma.to(getattr(torch, dtype)).double())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(DGQError):
        load_gaussian(path)


def test_a_gaussian_knows_its_dimensions() -> None:
    assert Gaussian(torch.zeros(4), torch.eye(4)).dimensions == 4
