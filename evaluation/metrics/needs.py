"""The parts of a sample that metrics need, or the reason why one is missing."""

from torch import Tensor

from evaluation.features.references import References
from evaluation.features.sample import Sample
from evaluation.metrics.metric import NotMeasuredError

WORDS = {1: "one image", 2: "two images"}


def pooled_features(sample: Sample, at_least: int = 1) -> Tensor:
    """Features [N, d] of a sample.

    Raises:
        NotMeasuredError: if there are fewer than ``at_least`` images.
    """
    features = sample.features.pooled
    assert features is not None, "a metric declares the features that it needs"
    if len(features) < at_least:
        raise NotMeasuredError(f"need at least {WORDS[at_least]}")
    return features


def full_precision_features(sample: Sample, at_least: int = 1) -> Tensor:
    """Features [N, d] of the full-precision images of the same prompts and noise."""
    assert sample.full_precision is not None, "only metrics against full precision ask for them"
    return pooled_features(sample.full_precision, at_least)


def real_images(sample: Sample) -> References:
    """The real images to compare with.

    Raises:
        NotMeasuredError: if there are none.
    """
    if sample.references is None:
        raise NotMeasuredError("need real images; give them or their statistics (--references)")
    return sample.references
