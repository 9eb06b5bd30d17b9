"""The interface of an image metric: declarations, and two or three methods.

A metric is one file of this package. Everything else (the table, the report, ``metrics.json``,
``--metrics`` and its help) follows from what its class declares; ``registry`` finds it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import ClassVar, Self

import torch
from torch import Tensor

from evaluation.extras import Package
from evaluation.features.features import Feature
from evaluation.features.sample import ImageBatch, Sample
from evaluation.metrics.estimate import Ratio, mean
from evaluation.metrics.line import Line
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol

Value = float | Mapping[str, Ratio]
"""Either a number for the whole set of images, or ratios over images whose mean is the metric.

Ratios get bootstrap intervals over prompts, as does their difference from full precision.
"""


class Against(IntEnum):
    """Reference that images are compared with; tables show metrics in this order."""

    REAL_IMAGES = 0
    NOTHING = 1
    PROMPTS = 2
    FULL_PRECISION = 3
    """The images of the same prompts and noise; full precision itself has no value."""


class NotMeasuredError(Exception):
    """Reason why a metric has no value for some images, shown as a note under the table."""


class Metric(ABC):
    """A metric of the images of one model with one seed.

    For each set of images, ``reset`` is called first, then ``update`` with every batch, then
    ``compute``. A metric that needs only features has only ``compute``.
    """

    key: ClassVar[str]
    """Name for ``--metrics``."""

    name: ClassVar[str]
    """Name in notes."""

    against: ClassVar[Against]
    """Reference of the comparison."""

    lines: ClassVar[tuple[Line, ...]]
    """The numbers that it computes."""

    features: ClassVar[frozenset[Feature]] = frozenset()
    """Features that it needs."""

    package: ClassVar[Package | None] = None
    """Package that it needs; by default it is measured only if that is installed."""

    by_default: ClassVar[bool] = True
    """Whether it is measured by default."""

    switch: ClassVar[str | None] = None
    """Setting of the protocol that requests it, besides ``--metrics``."""

    always_listed: ClassVar[bool] = True
    """Whether ``metrics.json`` contains its keys, with null, if it is not measured."""

    @classmethod
    def prepare(cls, protocol: Protocol, prompts: Prompts, device: str) -> Self:
        """An instance ready to measure; loads the network that it needs.

        Raises:
            DGQError: if something it needs is missing.
        """
        return cls()

    @classmethod
    def applies(cls, prompts: Prompts) -> bool:
        """Whether it is meaningful for images of these prompts."""
        return True

    def reset(self) -> None:  # noqa: B027, metrics of features have nothing to forget
        """Forget the images seen so far."""

    def update(self, batch: ImageBatch) -> None:  # noqa: B027, nor to look at
        """Process some images.

        Raises:
            NotMeasuredError: if they cannot be measured.
        """

    @abstractmethod
    def compute(self, sample: Sample) -> dict[str, Value]:
        """The value of each line that could be measured, by key.

        Raises:
            NotMeasuredError: if none could.
        """

    def notes(self, sample: Sample) -> Iterator[str]:
        """Remarks for readers of its values."""
        yield from ()

    @classmethod
    def looks_at_images(cls) -> bool:
        """Whether it needs the images themselves, not only features."""
        return cls.update is not Metric.update


class PerImageMetric(Metric):
    """The mean of one number per image."""

    def reset(self) -> None:
        """Forget the images seen so far."""
        self._scores: list[Tensor] = []

    def update(self, batch: ImageBatch) -> None:
        """Measure a batch of images."""
        self._scores.append(self.score(batch))

    @abstractmethod
    def score(self, batch: ImageBatch) -> Tensor:
        """One number per image, [N]."""

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The mean over the images."""
        return {self.lines[0].key: mean_of(torch.cat(self._scores))}


def mean_of(scores: Tensor) -> Value:
    """The mean of one number per image [N], with an interval over prompts."""
    return {"": mean(scores.double().numpy())}
