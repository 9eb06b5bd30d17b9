"""Prompts from files of captions or from the embedded scenes."""

import json
from pathlib import Path

import torch

import scenes
from dgq.errors import DGQError


def read_captions(path: Path) -> list[str]:
    """Captions of a file: COCO's captions JSON, or plain text with one caption a line.

    Raises:
        DGQError: if the file is missing, of another format, or holds no caption.
    """
    if not path.is_file():
        raise DGQError(
            f"{path} is not a file: expected captions in COCO's JSON format (annotations with a "
            "caption each), or a text file with one caption a line"
        )
    captions = coco_captions(path) if path.suffix == ".json" else path.read_text().splitlines()
    captions = [caption.strip() for caption in captions if caption.strip()]
    if not captions:
        raise DGQError(f"{path} holds no captions: give a file with at least one")
    return captions


def coco_captions(path: Path) -> list[str]:
    """Captions of a JSON file in COCO's format: ``{"annotations": [{"caption": ...}]}``."""
    try:
        return [item["caption"] for item in json.loads(path.read_text())["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DGQError(
            f'{path} is not in COCO\'s format ({error!r}): expected {{"annotations": '
            '[{"caption": "..."}]}'
        ) from error


def choose_prompts(captions: Path | None, n_prompts: int, seed: int) -> list[str]:
    """Draw distinct prompts.

    Args:
        captions: file to draw from; captions of the embedded scenes by default.
        n_prompts: how many.
        seed: of the draw.

    Raises:
        DGQError: if the file holds fewer distinct captions.
    """
    if captions is None:
        return scenes.sample_captions(n_prompts, seed, "train")
    distinct = sorted(set(read_captions(captions)))
    if len(distinct) < n_prompts:
        raise DGQError(
            f"{captions} holds {len(distinct)} distinct captions, fewer than the {n_prompts} asked "
            "for: lower --data.n_prompts or give more captions"
        )
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))
    return [distinct[i] for i in order[:n_prompts].tolist()]
