"""The interface of a benchmark: models, prompts, real images, and an exact scorer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from dgq.storage.manifest import GenerationSettings

Split = Literal["train", "test"]
"""Prompts to calibrate on, and held-out ones to evaluate on."""


class Answers(Protocol):
    """What a scorer found in N images, by attribute."""

    @property
    def hits(self) -> Mapping[str, Tensor]:
        """How often each image complies with its prompt, integers [N]."""

    @property
    def asked(self) -> Mapping[str, Tensor]:
        """How often its prompt asks for the attribute, integers [N]."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: calibration draws its prompts, and evaluation can render and score its images.

    Args:
        name: subject of its prompts, for reports.
        generation: sampling of its pipelines, by their names in ``dgq``; the first is the default
            of every command.
        clip: folder of a CLIP model trained on its images.
        sample_prompts: draws n prompts from a split; deterministic in its arguments, with a seed.
        is_prompt: whether renderer and scorer understand a text.
        render: real images for prompts, given a size in pixels and a seed, [N, 3, size, size] in
            [0, 1].
        class_prompts: texts whose zero-shot probabilities serve as classes (Inception score).
        attributes: names of the attributes that its scorer reads.
        score: scores images [N, 3, side, side] in [0, 1] against N prompts; raises ValueError for
            images that it cannot read.
    """

    name: str
    generation: Mapping[str, GenerationSettings]
    clip: Path
    sample_prompts: Callable[[int, int, Split], list[str]]
    is_prompt: Callable[[str], bool]
    render: Callable[[Sequence[str], int, int], Tensor]
    class_prompts: Callable[[], list[str]]
    attributes: tuple[str, ...]
    score: Callable[[Tensor, Sequence[str]], Answers]
