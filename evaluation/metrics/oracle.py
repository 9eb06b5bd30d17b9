"""Oracle: how well images comply with their prompts, read by a benchmark's own scorer."""

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

from data.benchmark import Answers, Benchmark
from data.embedded import BENCHMARKS
from evaluation.features.sample import ImageBatch, Sample
from evaluation.metrics.estimate import Array, Ratio, mean
from evaluation.metrics.line import Better, Line
from evaluation.metrics.metric import Against, Metric, NotMeasuredError, Value
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol

ALL = "all"


class Oracle(Metric):
    """Share of what prompts of a benchmark ask for that images show, read by its own scorer.

    Args:
        benchmark: benchmark of the prompts.
    """

    key, name = "oracle", "oracle"
    against = Against.PROMPTS
    lines = (
        Line("oracle_mean", "oracle: mean of attributes", Better.HIGHER, digits=3),
        Line("oracle_all", "oracle: all attributes right", Better.HIGHER, digits=3),
        *(
            Line(f"oracle_{name}", f"oracle: {name}", Better.HIGHER, digits=3)
            for name in dict.fromkeys(name for each in BENCHMARKS for name in each.attributes)
        ),
    )
    always_listed = False

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark

    @classmethod
    def applies(cls, prompts: Prompts) -> bool:
        """Whether all prompts are of one benchmark."""
        return prompts.benchmark is not None

    @classmethod
    def prepare(cls, protocol: Protocol, prompts: Prompts, device: str) -> Self:
        """An instance for the benchmark of the prompts."""
        assert prompts.benchmark is not None
        return cls(prompts.benchmark)

    def reset(self) -> None:
        """Forget the images seen so far."""
        self._answers: list[Answers] = []

    def update(self, batch: ImageBatch) -> None:
        """Score some images."""
        try:
            self._answers.append(self.benchmark.score(batch.pixels, batch.prompts))
        except ValueError as error:  # not square, or too small to be read
            raise NotMeasuredError(str(error)) from error

    def compute(self, sample: Sample) -> dict[str, Value]:
        """The mean of the attributes, the share of faultless images, and each attribute."""
        read = ratios_of(self._answers)
        whole = read.pop(ALL)
        values: dict[str, Value] = {"oracle_mean": read, "oracle_all": {ALL: whole}}
        return values | {f"oracle_{name}": {name: ratio} for name, ratio in read.items()}


def ratios_of(answers: Sequence[Answers]) -> dict[str, Ratio]:
    """Hits and questions for each attribute, and for faultless images (``all``).

    Attributes that no caption asks for are left out.

    Args:
        answers: answers for all images, batch by batch.
    """
    ratios = {}
    for name in answers[0].asked:
        hits = _joined(each.hits[name] for each in answers)
        asked = _joined(each.asked[name] for each in answers)
        if asked.any():
            ratios[name] = Ratio(hits, asked)
    return {ALL: mean(_joined(map(faultless, answers))), **ratios}


def faultless(answers: Answers) -> Tensor:
    """Whether images comply with their prompts in every attribute, [N]."""
    right = [answers.hits[name] == asked for name, asked in answers.asked.items()]
    return torch.stack(right).all(0)


def _joined(parts: Iterable[Tensor]) -> Array:
    return torch.cat(list(parts)).double().numpy()
