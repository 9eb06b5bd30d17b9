"""The Gaussian that FID sees in a set of features, and the distance of two of them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.files import check_regular

SLACK = 1e-6
"""Part of the largest entry by which a covariance may miss what it should be."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features, in float64.

    Args:
        mean: [d].
        covariance: [d, d], unbiased.
    """

    mean: Tensor
    covariance: Tensor

    @property
    def dimensions(self) -> int:
        """Number of features."""
        return len(self.mean)


def fit_gaussian(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance of features [N, d], N at least 2."""
    features = features.double()
    return Gaussian(features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``, the FID (Heusel et al., 2017).

    The eigenvalues of ``S_a S_b`` are those of the symmetric ``S_a^(1/2) S_b S_a^(1/2)``, which
    stays accurate where covariances are singular and a general matrix root does not.
    """
    root = _symmetric_root(a.covariance)
    product = root @ b.covariance @ root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    trace = a.covariance.trace() + b.covariance.trace() - 2 * _clean(eigenvalues).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + trace).item()


def load_gaussian(path: Path) -> Gaussian:
    """Statistics of real images, ``mu`` and ``sigma`` of an npz file as pytorch-fid writes it.

    Raises:
        DGQError: if the file is missing, damaged, or holds something else.
    """
    expected = "expected an npz with mu [d] and sigma [d, d], as `pytorch-fid --save-stats` writes"
    try:
        check_regular(path)
        with np.load(path, allow_pickle=False) as content:
            mean, covariance = (torch.from_numpy(content[n]).double() for n in ("mu", "sigma"))
    except Exception as error:  # numpy raises whatever zip, zlib and its own header parser do
        raise DGQError(f"{path} holds no FID statistics ({error}): {expected}") from error
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        shapes = f"mu {list(mean.shape)}, sigma {list(covariance.shape)}"
        raise DGQError(f"{path} holds no FID statistics ({shapes}): {expected}")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DGQError(f"{path} holds statistics that are not finite: make them again")
    if not is_covariance(covariance):
        raise DGQError(
            f"{path} holds a sigma that is no covariance, since it is not symmetric and positive "
            "semi-definite: make the statistics again"
        )
    return Gaussian(mean, covariance)


def is_covariance(matrix: Tensor) -> bool:
    """Whether a matrix is symmetric and positive semi-definite, rounding in float32 allowed."""
    tolerance = SLACK * matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    if (matrix - matrix.T).abs().max() > tolerance:
        return False
    return bool(torch.linalg.eigvalsh((matrix + matrix.T) / 2).min() >= -tolerance * len(matrix))


def _symmetric_root(matrix: Tensor) -> Tensor:
    """The root of a symmetric positive semi-definite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return (vectors * _clean(eigenvalues).sqrt()) @ vectors.T


def _clean(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues without those that are rounding errors around zero, whose roots add up."""
    threshold = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return torch.where(eigenvalues > threshold, eigenvalues, 0.0)
