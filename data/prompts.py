"""The prompts that a model is calibrated on."""

from pathlib import Path

import torch

import scenes
from dgq.captions.reading import read_captions
from dgq.errors import DGQError


def choose_prompts(
    captions: Path | None, n_prompts: int, seed: int, notes: list[str] | None = None
) -> list[str]:
    """Draw distinct prompts.

    Args:
        captions: file to draw from; captions of the embedded scenes by default.
        n_prompts: how many.
        seed: of the draw.
        notes: what the file has that is not used is appended.

    Raises:
        DGQError: if the file holds fewer distinct captions.
    """
    if captions is None:
        return scenes.sample_captions(n_prompts, seed, "train")
    distinct = sorted(set(read_captions(captions, notes)))
    if len(distinct) < n_prompts:
        raise DGQError(
            f"{captions} holds {len(distinct)} distinct captions, fewer than the {n_prompts} asked "
            "for, held-out ones included: lower --data.n_prompts or give more captions"
        )
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    return [distinct[i] for i in order[:n_prompts].tolist()]
