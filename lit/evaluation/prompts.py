"""The prompts of an evaluation: captions of scenes, lines of a text file, or COCO captions."""

from dataclasses import dataclass
from pathlib import Path

import scenes
from dgq.captions import read_captions
from dgq.errors import DGQError
from lit.evaluation.settings import DEFAULT_NUM_IMAGES

REFERENCE_SEED_OFFSET = 1_000_003
"""References have a seed of their own, so that they are other scenes than the prompts'."""


@dataclass(frozen=True)
class Prompts:
    """Prompts and where they come from.

    Args:
        captions: one for each image.
        source: for the report.
    """

    captions: tuple[str, ...]
    source: str

    @property
    def are_scenes(self) -> bool:
        """Whether each is a caption of a scene, so that oracle and renderer apply."""
        return all(scenes.is_scene_caption(caption) for caption in self.captions)


def load_prompts(path: Path | None, num_images: int | None, seed: int) -> Prompts:
    """The first ``num_images`` prompts of a file, or that many held-out captions of scenes.

    Args:
        path: text file with a prompt on each line, or COCO captions JSON; None draws captions.
        num_images: None is 256, or all prompts of a shorter file.
        seed: of the captions that are drawn.

    Raises:
        DGQError: if the file is missing or malformed, or has too few prompts.
    """
    if path is None:
        captions = scenes.sample_captions(num_images or DEFAULT_NUM_IMAGES, seed, "test")
        return Prompts(tuple(captions), f"captions of scenes, test split, seed {seed}")
    captions = read_captions(path)
    if num_images is not None and len(captions) < num_images:
        raise DGQError(f"--num-images is {num_images}, but {path} holds {len(captions)} prompts")
    return Prompts(tuple(captions[: num_images or DEFAULT_NUM_IMAGES]), path.name)


def reference_captions(n: int, seed: int) -> list[str]:
    """Held-out captions of scenes, drawn apart from the prompts."""
    return list(scenes.sample_captions(n, seed + REFERENCE_SEED_OFFSET, "test"))
