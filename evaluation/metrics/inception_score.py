"""Inception score: how confident and how diverse a classifier finds the images."""

from itertools import pairwise
from typing import Self

import numpy as np
from torch import Tensor

from data.embedded import DEFAULT
from evaluation.features.features import Feature
from evaluation.features.sample import Sample
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, Metric, NotMeasuredError, Value
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol

ISC_SEED = 2020


class InceptionScore(Metric):
    """Inception score (Salimans et al., 2016), as torch-fidelity.

    Args:
        splits: parts of equal size whose scores are averaged.
    """

    key, name = "inception_score", "Inception score"
    against = Against.NOTHING
    lines = (Line("inception_score", "Inception score", Better.HIGHER),)
    features = frozenset({Feature.LOGITS})

    def __init__(self, splits: int = 1) -> None:
        self.splits = splits

    @classmethod
    def prepare(cls, protocol: Protocol, prompts: Prompts, device: str) -> Self:
        """An instance with the number of splits in the protocol."""
        return cls(protocol.inception_score_splits)

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The value for the whole set."""
        logits = sample.features.logits
        if logits is None:
            raise NotMeasuredError(
                f"its classes are those of {DEFAULT.name}, and the prompts are not"
            )
        if self.splits > len(logits):
            raise NotMeasuredError(f"{len(logits)} images cannot be split into {self.splits} parts")
        return {"inception_score": inception_score(logits, self.splits)}


def inception_score(logits: Tensor, splits: int = 10) -> float:
    """``exp(mean KL(p(class | image) || p(class)))``, averaged over splits (Salimans et al., 2016).

    Computed as in torch-fidelity, shuffled with its seed; torchmetrics shuffles differently.

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
