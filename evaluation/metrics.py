"""The metrics as pure functions; by torchmetrics where its formula is the standard one."""

import warnings
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.kid import KernelInceptionDistance

ISC_SEED = 2020
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """``exp(mean KL(p(class | image) || p(class)))``, averaged over splits (Salimans et al., 2016).

    As torch-fidelity computes it, shuffled with its seed; torchmetrics shuffles otherwise.

    Args:
        logits: [N, classes].
        splits: parts of equal size whose scores are averaged; at most N.
    """
    order = np.random.RandomState(ISC_SEED).permutation(len(logits))
    log_p = logits.double()[order].log_softmax(1)
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    parts = [log_p[a:b] for a, b in pairwise(bounds)]
    return float(np.mean([_exponential_divergence(part) for part in parts]))


def _exponential_divergence(log_p: Tensor) -> float:
    p = log_p.exp()
    return (p * (log_p - p.mean(0).log())).nan_to_num().sum(1).mean().exp().item()


class _Features(nn.Module):
    """Stands where torchmetrics expects an extractor: what comes in are features already."""

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
        warnings.simplefilter("ignore", UserWarning)  # that it keeps features
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

    The U-statistic of pairs (Gretton et al., 2012, lemma 6): without ``k(x_i, y_i)``, which close
    pairs would make the usual estimate negative with. Averaged over parts of at most 1000 pairs.

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


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of image i with text i times 100, at least 0 (Hessel et al., 2021), [N].

    ``torchmetrics.multimodal.CLIPScore`` is their mean, but cannot call transformers 5.

    Args:
        images: embeddings [N, p].
        texts: embeddings [N, p].
    """
    return (100 * torch.cosine_similarity(images, texts)).clamp(min=0)


def ssim(expected: Tensor, actual: Tensor) -> Tensor:
    """Structural similarity of each image, [N] (Wang et al., 2004)."""
    values = structural_similarity_index_measure(actual, expected, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(-1)
