"""FID: the Fréchet distance of Gaussians fitted to two sets of features."""

from collections.abc import Iterator

import torch
from torch import Tensor

from evaluation.features.features import Feature
from evaluation.features.gaussian import Gaussian, fit_gaussian
from evaluation.features.sample import Sample
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, Metric, Value
from evaluation.metrics.needs import full_precision_features, pooled_features, real_images


class Fid(Metric):
    """Fréchet inception distance to real images (Heusel et al., 2017), as pytorch-fid."""

    key, name = "fid", "FID"
    against = Against.REAL_IMAGES
    lines = (Line("fid", "FID to real images", Better.LOWER),)
    features = frozenset({Feature.POOLED})

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The value for the whole set."""
        real = real_images(sample)
        features = pooled_features(sample, at_least=2)
        return {"fid": frechet_distance(real.gaussian, fit_gaussian(features))}

    def notes(self, sample: Sample) -> Iterator[str]:
        """A note if there are too few drawn or real images."""
        yield from few_images(sample)


class FidToFullPrecision(Metric):
    """FID to the full-precision images of the same prompts."""

    key, name = "fid_to_full_precision", "FID"
    against = Against.FULL_PRECISION
    lines = (Line("fid_to_full_precision", "FID to full precision", Better.LOWER),)
    features = frozenset({Feature.POOLED})

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The value for the whole set."""
        pair = full_precision_features(sample, at_least=2), pooled_features(sample, at_least=2)
        expected, actual = (fit_gaussian(features) for features in pair)
        return {"fid_to_full_precision": frechet_distance(expected, actual)}

    def notes(self, sample: Sample) -> Iterator[str]:
        """A note if there are too few images."""
        yield from few_images(sample)


def few_images(sample: Sample) -> Iterator[str]:
    """Note that a covariance rests on too few images, if so."""
    n, dimensions = pooled_features(sample).shape
    if 2 <= n <= dimensions:
        yield (
            f"FID rests on {n} images for {dimensions} features: the covariance is singular, "
            "so compare only with runs of as many images, or look at KID"
        )
    n_real = None if sample.references is None else sample.references.n
    if n_real is not None and n_real <= dimensions and n >= 2:
        yield f"FID rests on {n_real} real images for {dimensions} features"


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))``.

    It is computed here because the eigenvalues of ``S_a S_b`` are those of the symmetric
    ``S_a^(1/2) S_b S_a^(1/2)``. This stays accurate for singular covariances, unlike the general
    matrix root that libraries use.
    """
    root = _symmetric_root(a.covariance)
    product = root @ b.covariance @ root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    trace = a.covariance.trace() + b.covariance.trace() - 2 * _clean(eigenvalues).sqrt().sum()
    distance = ((a.mean - b.mean).square().sum() + trace).item()
    return max(distance, 0.0)  # equal Gaussians may round to less


def _symmetric_root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric positive semi-definite matrix."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * _clean(eigenvalues).sqrt()) @ vectors.T
    return root


def _clean(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues with rounding errors around zero removed, whose roots would add up."""
    threshold = eigenvalues.abs().max() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return torch.where(eigenvalues > threshold, eigenvalues, 0.0)
