"""The networks that extract features, shared by all images of an evaluation."""

from collections.abc import Collection, Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from data.benchmark import Benchmark
from evaluation.features.clip_features import ClipFeatures
from evaluation.features.features import Feature, Features
from evaluation.features.inception_features import InceptionFeatures
from evaluation.features.open_clip_features import PREFIX, OpenClipFeatures
from evaluation.protocol import Protocol

Clip = ClipFeatures | OpenClipFeatures


ALL_FEATURES = frozenset(Feature)


class Extractors:
    """Inception for distributions and a CLIP model for prompts, or a CLIP model for both.

    Args:
        protocol: protocol that names the networks.
        benchmark: benchmark of the prompts, whose classes replace Inception's.
        device: where they run.
        needed: required kinds of features; a network that extracts none of them is not loaded.
    """

    def __init__(
        self,
        protocol: Protocol,
        benchmark: Benchmark | None,
        device: str,
        needed: Collection[Feature] = ALL_FEATURES,
    ) -> None:
        by_inception = protocol.features == "inception"
        self.needed = frozenset(needed)
        self.benchmark = benchmark
        self.inception: InceptionFeatures | None = None
        if by_inception and self.needed & {Feature.POOLED, Feature.LOGITS}:
            self.inception = InceptionFeatures(protocol.inception, device)
        of_clip = {Feature.EMBEDDINGS} if by_inception else ALL_FEATURES
        # The embedded CLIP only knows its own images, so it is not combined with Inception.
        is_known = not by_inception or protocol.clip is not None
        self.clip = load_clip(protocol.clip, device) if is_known and self.needed & of_clip else None
        self._classes = None if by_inception else self._class_embeddings()

    @property
    def names(self) -> dict[Feature, str | None]:
        """The network behind each kind of features, for the report."""
        clip = None if self.clip is None else self.clip.name
        if self.inception is not None:
            return {
                Feature.POOLED: self.inception.name,
                Feature.LOGITS: self.inception.name,
                Feature.EMBEDDINGS: clip,
            }
        classes = None
        if clip is not None and self.benchmark is not None:
            classes = f"zero-shot classes of {self.benchmark.name}, {clip}"
        return {
            Feature.POOLED: clip and f"pooled image features of {clip}",
            Feature.LOGITS: classes,
            Feature.EMBEDDINGS: clip,
        }

    def extract(self, batches: Iterable[Sequence[Image.Image]], n_embedded: int = 0) -> Features:
        """Features of all images; CLIP embeddings of at least the first ``n_embedded``."""
        if self.inception is None and self.clip is None:
            return Features()
        pooled, logits, embeddings = [], [], []
        n = 0
        for batch in batches:
            if self.inception is not None:
                seen, classes = self.inception.images(batch)
                pooled.append(seen)
                logits.append(classes)
            if self.clip is not None and (self.inception is None or n < n_embedded):
                seen, embedded = self.clip.images(batch)
                embeddings.append(embedded)
                if self.inception is None:
                    pooled.append(seen)
            n += len(batch)
        together = torch.cat(embeddings) if embeddings else None
        if self._classes is not None and self.clip is not None and together is not None:
            logits = [self.clip.logit_scale * together @ self._classes.T]
        return Features(
            torch.cat(pooled) if pooled else None,
            torch.cat(logits) if logits else None,
            None if together is None else together[:n_embedded],
        )

    def texts(self, prompts: Sequence[str]) -> Tensor | None:
        """Embeddings of prompts, [N, p]; None without a CLIP model."""
        return None if self.clip is None else self.clip.texts(prompts)

    def _class_embeddings(self) -> Tensor | None:
        """Texts whose cosines serve as class logits if Inception's classes do not fit."""
        if self.clip is None or self.benchmark is None:
            return None
        return self.clip.texts(self.benchmark.class_prompts())


def load_clip(source: str | None, device: str) -> Clip:
    """Load a CLIP model from a hub id, a folder or ``open_clip:...``; None is the embedded one."""
    if source is not None and source.startswith(PREFIX):
        return OpenClipFeatures(source, device)
    return ClipFeatures(source, device)
