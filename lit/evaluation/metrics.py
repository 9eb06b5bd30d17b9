"""The metrics, by torchmetrics, as functions of features and of image files."""

import warnings
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional import cosine_similarity
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from lit.evaluation.images import to_tensor


class _Features(nn.Module):
    """Stands where torchmetrics expects an extractor: what comes in are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(reference: Tensor, features: Tensor) -> float:
    """Fréchet distance of two sets of features (FID), with unbiased covariances.

    Args:
        reference: [M, d], M at least 2.
        features: [N, d], N at least 2.
    """
    metric = FrechetInceptionDistance(feature=_Features(reference.shape[1]))
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return metric.compute().item()


def inception_score(logits: Tensor) -> float:
    """``exp(mean KL(p(class | image) || p(class)))`` over all images at once (one split).

    Args:
        logits: [N, classes].
    """
    with warnings.catch_warnings():
        # It warns that it keeps features, and that one split has no standard deviation.
        warnings.simplefilter("ignore", UserWarning)
        metric = InceptionScore(feature=_Features(logits.shape[1]), splits=1)
        metric.update(logits.double())
        with torch.random.fork_rng(devices=[]):  # it shuffles, which one split does not see
            torch.manual_seed(0)
            return metric.compute()[0].item()


def clip_score(images: Tensor, texts: Tensor) -> float:
    """Mean cosine of image i with text i, times 100, not below 0 (Hessel et al., 2021).

    ``torchmetrics.multimodal.CLIPScore`` is this, but cannot call transformers 5.

    Args:
        images: embeddings [N, p].
        texts: embeddings [N, p].
    """
    return max(100 * cosine_similarity(images, texts, reduction="mean").item(), 0.0)


def psnr(reference: Iterable[list[Image.Image]], images: Iterable[list[Image.Image]]) -> float:
    """Peak signal to noise ratio in dB, of the error averaged over all images; infinite if none."""
    metric = PeakSignalNoiseRatio(data_range=1.0)
    for expected, actual in zip(reference, images, strict=True):
        metric.update(to_tensor(actual), to_tensor(expected))
    return metric.compute().item()
