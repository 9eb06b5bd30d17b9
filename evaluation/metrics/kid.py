"""KID: the squared maximum mean discrepancy of two sets of features."""

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from evaluation.features.features import Feature
from evaluation.features.sample import Sample
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, Metric, NotMeasuredError, Value
from evaluation.metrics.needs import full_precision_features, pooled_features, real_images

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000


class Kid(Metric):
    """Kernel inception distance to real images (Binkowski et al., 2018), by torchmetrics."""

    key, name = "kid", "KID"
    against = Against.REAL_IMAGES
    lines = (Line("kid", "KID to real images", Better.LOWER, "x 1000", scale=1000),)
    features = frozenset({Feature.POOLED})

    def compute(self, sample: Sample) -> dict[str, Value]:
        """Its value for the whole set."""
        real = real_images(sample)
        features = pooled_features(sample, at_least=2)
        if real.features is None:
            raise NotMeasuredError(f"{real.source} has statistics only, and it needs images")
        return {"kid": kernel_distance(real.features, features)}


class KidToFullPrecision(Metric):
    """KID to the full-precision images of the same prompts, as pairs."""

    key, name = "kid_to_full_precision", "KID"
    against = Against.FULL_PRECISION
    lines = (
        Line("kid_to_full_precision", "KID to full precision", Better.LOWER, "x 1000", scale=1000),
    )
    features = frozenset({Feature.POOLED})

    def compute(self, sample: Sample) -> dict[str, Value]:
        """Its value for the whole set."""
        pair = full_precision_features(sample, at_least=2), pooled_features(sample, at_least=2)
        return {"kid_to_full_precision": paired_kernel_distance(*pair)}


class _Features(nn.Module):
    """Stands in for the extractor that torchmetrics expects: its input already is features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def kernel_distance(reference: Tensor, features: Tensor) -> float:
    """Kernel inception distance (KID; Binkowski et al., 2018): unbiased, so fit for few images.

    The mean over 100 random subsets of at most 1000, always the same ones.

    Args:
        reference: [M, d], M at least 2.
        features: [N, d], N at least 2.
    """
    size = min(len(reference), len(features), KID_SUBSET_SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about its keeping of features
        metric = KernelInceptionDistance(
            feature=_Features(features.shape[1]), subsets=KID_SUBSETS, subset_size=size
        )
        metric.update(reference.double(), real=True)
        metric.update(features.double(), real=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return metric.compute()[0].item()


def paired_kernel_distance(expected: Tensor, actual: Tensor) -> float:
    """KID of images to those of the same prompts and seeds, which are not independent of them.

    This is the U-statistic of pairs (Gretton et al., 2012, lemma 6). It leaves out ``k(x_i, y_i)``,
    with which close pairs would make the usual estimate negative. Averaged over parts of at most
    1000 pairs.

    Args:
        expected: [N, d], N at least 2.
        actual: [N, d].
    """
    n_parts = -(-len(expected) // KID_SUBSET_SIZE)
    chunks = (features.double().tensor_split(n_parts) for features in (expected, actual))
    return float(np.mean([_pair_statistic(x, y) for x, y in zip(*chunks, strict=True)]))


def _pair_statistic(x: Tensor, y: Tensor) -> float:
    n, d = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / d + 1) ** 3

    across = kernel(x, y)
    terms = kernel(x, x) + kernel(y, y) - across - across.T
    return ((terms.sum() - terms.trace()) / (n * (n - 1))).item()
