"""What a metric of images is: declarations, and two or three methods.

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
"""A number of the whole set of images, or ratios over images whose mean is the metric.

Ratios get bootstrap intervals over prompts, and so does their difference to full precision.
"""


class Against(IntEnum):
    """What images are compared with; tables show metrics in this order."""

    REAL_IMAGES = 0
    NOTHING = 1
    PROMPTS = 2
    FULL_PRECISION = 3
    """The images of the same prompts and noise; in full precision itself there is no value."""


class NotMeasuredError(Exception):
    """Why a metric has no value for some images: a note under the table."""


class Metric(ABC):
    """A metric of the images of one model with one seed.

    For each such set of images ``reset`` is called, ``update`` with every batch of them, and then
    ``compute``. A metric that needs features alone has only ``compute``.
    """

    key: ClassVar[str]
    """Its name for ``--metrics``."""

    name: ClassVar[str]
    """Its name in notes."""

    against: ClassVar[Against]
    """What images are compared with."""

    lines: ClassVar[tuple[Line, ...]]
    """The numbers that it computes."""

    features: ClassVar[frozenset[Feature]] = frozenset()
    """What networks have to extract for it."""

    package: ClassVar[Package | None] = None
    """What it needs to be installed; by default it is measured only where it is."""

    by_default: ClassVar[bool] = True
    """Whether it is measured where nobody asks for it."""

    switch: ClassVar[str | None] = None
    """Setting of the protocol that asks for it, beside ``--metrics``."""

    always_listed: ClassVar[bool] = True
    """Whether ``metrics.json`` has its keys, with null, where it is not measured."""

    @classmethod
    def prepare(cls, protocol: Protocol, prompts: Prompts, device: str) -> Self:
        """The metric, ready to measure; a network that it needs is loaded here.

        Raises:
            DGQError: if something that it needs is missing.
        """
        return cls()

    @classmethod
    def applies(cls, prompts: Prompts) -> bool:
        """Whether it means anything for images of such prompts."""
        return True

    def reset(self) -> None:  # noqa: B027, metrics of features have nothing to forget
        """Forget the images seen so far."""

    def update(self, batch: ImageBatch) -> None:  # noqa: B027, nor to look at
        """Look at some images.

        Raises:
            NotMeasuredError: if they cannot be measured.
        """

    @abstractmethod
    def compute(self, sample: Sample) -> dict[str, Value]:
        """The value of each line, by key; of those that could be measured.

        Raises:
            NotMeasuredError: if there is none.
        """

    def notes(self, sample: Sample) -> Iterator[str]:
        """What readers of its values should know."""
        yield from ()

    @classmethod
    def looks_at_images(cls) -> bool:
        """Whether it wants the images themselves, not only what networks extract from them."""
        return cls.update is not Metric.update


class PerImageMetric(Metric):
    """The mean of a number of each image."""

    def reset(self) -> None:
        """Forget the images seen so far."""
        self._scores: list[Tensor] = []

    def update(self, batch: ImageBatch) -> None:
        """Measure some images."""
        self._scores.append(self.score(batch))

    @abstractmethod
    def score(self, batch: ImageBatch) -> Tensor:
        """A number of each image, [N]."""

    def compute(self, sample: Sample) -> dict[str, Value]:
        """Their mean."""
        return {self.lines[0].key: mean_of(torch.cat(self._scores))}


def mean_of(scores: Tensor) -> Value:
    """The mean of a number of each image [N], with an interval over prompts."""
    return {"": mean(scores.double().numpy())}
