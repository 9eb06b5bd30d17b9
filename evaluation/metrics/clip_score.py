"""CLIP score: how well images match their prompts according to a CLIP model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from evaluation.features.features import Feature
from evaluation.features.sample import Sample
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, Metric, NotMeasuredError, Value, mean_of


class ClipScore(Metric):
    """CLIP score (Hessel et al., 2021): cosine of image and prompt, times 100, at least 0."""

    key, name = "clip_score", "CLIP score"
    against = Against.PROMPTS
    lines = (Line("clip_score", "CLIP score", Better.HIGHER),)
    features = frozenset({Feature.EMBEDDINGS})

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The mean over the images that have embeddings."""
        images, texts = sample.features.embeddings, sample.texts
        if images is None or texts is None:
            raise NotMeasuredError("no CLIP model beside Inception; give one with --clip")
        return {"clip_score": mean_of(clip_scores(images, texts))}

    def notes(self, sample: Sample) -> Iterator[str]:
        """A note if it is not the score of all images."""
        images, n = sample.features.embeddings, len(sample.images.prompts)
        if images is not None and len(images) < n:
            yield f"CLIP score: of the first {len(images)} of {n} images"


def clip_scores(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of image i with text i times 100, at least 0 (Hessel et al., 2021), [N].

    ``torchmetrics.multimodal.CLIPScore`` is the mean of these, but does not work with transformers
    5.

    Args:
        images: embeddings [N, p].
        texts: embeddings [N, p].
    """
    return (100 * torch.cosine_similarity(images, texts)).clamp(min=0)
