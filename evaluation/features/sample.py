"""The input of metrics: the images of one model with one seed, and what is known about them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Optional

from PIL import Image
from torch import Tensor

from evaluation.batching import batched
from evaluation.features.features import Features
from evaluation.features.references import References
from evaluation.images.files import to_tensor
from evaluation.images.store import ImageStore


@dataclass(frozen=True)
class ImageBatch:
    """Some images, as the protocol measures them.

    Args:
        images: N of them, RGB of 8 bits.
        prompts: prompt of each image.
        expected: the full-precision images of the same prompts and noise; empty in full precision.
    """

    images: Sequence[Image.Image]
    prompts: Sequence[str]
    expected: Sequence[Image.Image] = ()

    @cached_property
    def pixels(self) -> Tensor:
        """The images, [N, 3, H, W] in [0, 1]."""
        return to_tensor(self.images)

    @cached_property
    def expected_pixels(self) -> Tensor:
        """The full-precision images, [N, 3, H, W] in [0, 1]."""
        return to_tensor(self.expected)


@dataclass(frozen=True)
class Sample:
    """The images of one model with one seed.

    Args:
        images: on disk.
        features: features that networks extracted from them.
        texts: embeddings [K, p] of the first K prompts, of unit length; None without a CLIP model.
        references: the real images; None where there are none, or no metric needs them.
        full_precision: the full-precision sample with this seed; None for that sample itself.
        model: position of the model among all.
        batch_size: images at once.
    """

    images: ImageStore
    features: Features = field(default_factory=Features)
    texts: Tensor | None = None
    references: References | None = None
    full_precision: Optional["Sample"] = None
    model: int = 0
    batch_size: int = 16

    def batches(self) -> Iterator[ImageBatch]:
        """All images in order, together with the full-precision ones."""
        size, prompts = self.batch_size, batched(self.images.prompts, self.batch_size)
        ours = self.images.measured(size)
        if self.full_precision is None:
            for images, asked in zip(ours, prompts, strict=True):
                yield ImageBatch(images, asked)
            return
        theirs = self.full_precision.images.measured(size)
        for images, asked, expected in zip(ours, prompts, theirs, strict=True):
            yield ImageBatch(images, asked, expected)
