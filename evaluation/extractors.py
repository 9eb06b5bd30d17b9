"""Who looks at the images: one set of networks for all images of an evaluation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from data.benchmark import Benchmark
from evaluation.clip_features import ClipFeatures
from evaluation.inception_features import InceptionFeatures
from evaluation.open_clip_features import PREFIX, OpenClipFeatures
from evaluation.protocol import Protocol

Clip = ClipFeatures | OpenClipFeatures


@dataclass(frozen=True)
class Seen:
    """What the extractors make of N images.

    Args:
        features: [N, d], for FID and KID.
        logits: [N, classes], for the Inception score; None where classes do not fit the images.
        embeddings: [K, p] of the first K images, for the CLIP score; None without a CLIP model.
    """

    features: Tensor
    logits: Tensor | None
    embeddings: Tensor | None


class Extractors:
    """Inception for distributions and a CLIP model for prompts, or a CLIP model for both.

    Args:
        protocol: which networks.
        benchmark: that the prompts are of, whose classes stand for Inception's.
        device: where they run.
    """

    def __init__(self, protocol: Protocol, benchmark: Benchmark | None, device: str) -> None:
        self.inception: InceptionFeatures | None = None
        if protocol.features == "inception":
            self.inception = InceptionFeatures(protocol.inception, device)
        # The embedded CLIP knows its own images only: beside Inception it would be a mixture.
        needed = self.inception is None or protocol.clip is not None
        self.clip = load_clip(protocol.clip, device) if needed else None
        self.benchmark = benchmark
        self._classes = self._class_embeddings()

    @property
    def names(self) -> dict[str, str | None]:
        """The extractor behind each metric, for the report."""
        clip = None if self.clip is None else self.clip.name
        if self.inception is not None:
            distribution = score = self.inception.name
        else:
            distribution, score = f"pooled image features of {clip}", None
            if self.benchmark is not None:
                score = f"zero-shot classes of {self.benchmark.name}, {clip}"
        return {"fid and kid": distribution, "inception score": score, "clip score": clip}

    def look(self, batches: Iterable[Sequence[Image.Image]], n_embedded: int) -> Seen:
        """Features of all images, CLIP embeddings of the first ``n_embedded`` at least."""
        features, logits, embeddings = [], [], []
        n = 0
        for batch in batches:
            if self.inception is not None:
                pooled, scores = self.inception.images(batch)
                features.append(pooled)
                logits.append(scores)
            if self.clip is not None and (self.inception is None or n < n_embedded):
                pooled, embedded = self.clip.images(batch)
                embeddings.append(embedded)
                if self.inception is None:
                    features.append(pooled)
            n += len(batch)
        together = torch.cat(embeddings) if embeddings else None
        if self._classes is not None and self.clip is not None and together is not None:
            logits = [self.clip.logit_scale * together @ self._classes.T]
        embedded_first = None if together is None else together[:n_embedded]
        return Seen(torch.cat(features), torch.cat(logits) if logits else None, embedded_first)

    def _class_embeddings(self) -> Tensor | None:
        """Texts whose cosines stand for class logits, where Inception's classes do not fit."""
        if self.inception is not None or self.clip is None or self.benchmark is None:
            return None
        return self.clip.texts(self.benchmark.class_prompts())


def load_clip(source: str | None, device: str) -> Clip:
    """The CLIP model of a hub id, a folder or ``open_clip:...``; None is the embedded one."""
    if source is not None and source.startswith(PREFIX):
        return OpenClipFeatures(source, device)
    return ClipFeatures(source, device)
