"""The Gaussian fitted to a set of features, computed or read from a file."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.files import check_regular

SLACK = 1e-6
"""Tolerance of checks of a covariance, relative to its largest entry."""


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


def load_gaussian(path: Path) -> Gaussian:
    """Load statistics of real images: ``mu`` and ``sigma`` of an npz file that pytorch-fid writes.

    Raises:
        DGQError: if the file is missing, damaged, or holds something else.
    """
    expected = "expected an npz with mu [d] and sigma [d, d], as `pytorch-fid --save-stats` writes"
    try:
        check_regular(path)
        if not is_zipfile(path):
            raise ValueError("it is not an npz")
        with np.load(path, allow_pickle=False) as content:
            mean, covariance = (torch.from_numpy(content[n]).double() for n in ("mu", "sigma"))
    except Exception as error:  # zip, zlib and numpy's header parser raise all kinds
        raise DGQError(f"{path} holds no FID statistics ({error}): {expected}") from error
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        shapes = f"mu {list(mean.shape)}, sigma {list(covariance.shape)}"
        raise DGQError(f"{path} holds no FID statistics ({shapes}): {expected}")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DGQError(f"{path} holds statistics that are not finite: make them again")
    if not is_covariance(covariance):
        raise DGQError(
            f"{path} holds a sigma that is not a covariance, since it is not symmetric and "
            "positive semi-definite: make the statistics again"
        )
    return Gaussian(mean, covariance)


def is_covariance(matrix: Tensor) -> bool:
    """Whether a matrix is symmetric and positive semi-definite, up to float32 rounding."""
    tolerance = SLACK * matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    if (matrix - matrix.T).abs().max() > tolerance:
        return False
    return bool(torch.linalg.eigvalsh((matrix + matrix.T) / 2).min() >= -tolerance * len(matrix))
