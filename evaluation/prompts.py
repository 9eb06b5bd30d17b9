"""The prompts of an evaluation: those of a benchmark, or of a given file or dataset."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data.benchmark import Benchmark
from data.embedded import DEFAULT, benchmark_of_prompts
from dgq.captions.reading import read_captions
from dgq.errors import DGQError
from dgq.storage.files import exists
from evaluation.protocol import DEFAULT_NUM_IMAGES

REFERENCE_SEED_OFFSET = 1_000_003
"""Offset of the references' seed, so that their captions are drawn independently of the prompts."""


@dataclass(frozen=True)
class Prompts:
    """Prompts and their origin.

    Args:
        captions: one for each image.
        source: origin, for the report.
        identity: identity of the list that they are the first of, for folder names.
        notes: what was skipped.
    """

    captions: tuple[str, ...]
    source: str
    identity: str
    notes: tuple[str, ...] = ()

    @cached_property
    def benchmark(self) -> Benchmark | None:
        """The benchmark that understands all prompts, so that its scorer and renderer apply."""
        return benchmark_of_prompts(self.captions)


def load_prompts(
    source: str | None, num_images: int | None, seed: int, benchmark: Benchmark = DEFAULT
) -> Prompts:
    """The first ``num_images`` prompts of a source, or that many held-out ones of a benchmark.

    Args:
        source: anything that ``read_captions`` reads; None draws from the benchmark.
        num_images: number of prompts; None means 256, or all prompts of a shorter source.
        seed: seed of the captions that are drawn.
        benchmark: benchmark to draw from.

    Raises:
        DGQError: if the source is missing or malformed, or has too few prompts.
    """
    if source is None:
        captions = benchmark.sample_prompts(num_images or DEFAULT_NUM_IMAGES, seed, "test")
        name = f"captions of {benchmark.name}, test split, seed {seed}"
        return Prompts(tuple(captions), name, name)
    notes: list[str] = []
    captions = read_captions(source, notes)
    if num_images is not None and len(captions) < num_images:
        raise DGQError(f"--num-images is {num_images}, but {source} holds {len(captions)} prompts")
    identity = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
    chosen = tuple(captions[: num_images or DEFAULT_NUM_IMAGES])
    name = Path(source).name if exists(Path(source)) else source
    return Prompts(chosen, name, identity, tuple(notes))


def reference_captions(n: int, seed: int, benchmark: Benchmark = DEFAULT) -> list[str]:
    """Held-out captions of a benchmark, drawn separately from the prompts."""
    return benchmark.sample_prompts(n, seed + REFERENCE_SEED_OFFSET, "test")
