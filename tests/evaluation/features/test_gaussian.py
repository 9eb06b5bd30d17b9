"""Gaussians that fit features, and the statistics that pytorch-fid stores."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgq.errors import DGQError
from evaluation.features.gaussian import (
    Gaussian,
    fit_gaussian,
    is_covariance,
    load_gaussian,
)


def features(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator)
    shift = torch.randn(d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mixing + shift


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
    with pytest.raises(DGQError, match=r"real\.npz holds a sigma that is not a covariance"):
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
