"""What a benchmark of one's own offers: models, prompts, real images, and an exact scorer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from dgq.storage.manifest import GenerationSettings

Split = Literal["train", "test"]
"""Prompts to calibrate on, and held-out ones to evaluate on."""


class Answers(Protocol):
    """What a scorer finds in N images, attribute by attribute."""

    @property
    def hits(self) -> Mapping[str, Tensor]:
        """How often each image complies with its prompt, integers [N]."""

    @property
    def asked(self) -> Mapping[str, Tensor]:
        """How often its prompt asks for the attribute, integers [N]."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: calibration draws its prompts, evaluation knows its images by heart.

    Args:
        name: what its prompts are about, for reports.
        generation: how its pipelines are sampled, by their names in ``dgq``; the first is the
            default of every command.
        clip: folder of a CLIP model that knows its images.
        sample_prompts: draws n prompts with a seed from a split, the same for the same arguments.
        is_prompt: whether renderer and scorer understand a text.
        render: real images of prompts, of a size in pixels and with a seed, [N, 3, size, size] in
            [0, 1].
        class_prompts: texts whose zero-shot probabilities stand for classes (Inception score).
        attributes: names of what its scorer answers for.
        score: images [N, 3, side, side] in [0, 1] against N prompts; raises ValueError for images
            that it cannot read.
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
