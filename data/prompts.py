"""The prompts that a model is calibrated on."""

from pathlib import Path

import torch

from data.benchmark import Benchmark
from data.embedded import DEFAULT
from dgq.captions.reading import read_captions
from dgq.errors import DGQError


def choose_prompts(
    captions: Path | None,
    n_prompts: int,
    seed: int,
    notes: list[str] | None = None,
    benchmark: Benchmark | None = None,
) -> list[str]:
    """Draw distinct prompts.

    Args:
        captions: file to draw from; by default prompts of the benchmark.
        n_prompts: number of prompts.
        seed: seed of the draw.
        notes: list to which notes on unused content of the file are appended.
        benchmark: benchmark to draw from if there is no file; the embedded one by default.

    Raises:
        DGQError: if the file holds fewer distinct captions.
    """
    if captions is None:
        return (benchmark or DEFAULT).sample_prompts(n_prompts, seed, "train")
    distinct = sorted(set(read_captions(captions, notes)))
    if len(distinct) < n_prompts:
        raise DGQError(
            f"{captions} holds {len(distinct)} distinct captions, fewer than the {n_prompts} asked "
            "for, held-out ones included: lower --data.n_prompts or give more captions"
        )
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    return [distinct[i] for i in order[:n_prompts].tolist()]
