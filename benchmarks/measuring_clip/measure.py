"""All questions that CLIP is asked about renders, and its answers."""

import argparse
from collections import Counter
from typing import Any

from rich.progress import Progress

import scenes
from benchmarks.measuring_clip.attributes import tell_changed
from benchmarks.measuring_clip.renders import Advance, embed_renders
from benchmarks.measuring_clip.retrieval import picture_key, retrieve
from evaluation.clip_features import ClipFeatures


def measure_clip(
    clip: ClipFeatures, options: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    """Retrieval and attributes as JSON, and what they were measured with."""
    n_pictures = options.captions + len(scenes.ATTRIBUTES) * options.pictures
    task = progress.add_task("pictures seen", total=n_pictures)

    def advance(n: int) -> None:
        progress.advance(task, n)

    return {
        "clip": clip.name,
        "seed": options.seed,
        **ask_retrieval(clip, options.captions, options.seed, advance),
        "attributes": ask_attributes(clip, options.pictures, options.seed, advance),
    }


def ask_retrieval(clip: ClipFeatures, n: int, seed: int, advance: Advance) -> dict[str, Any]:
    """Retrieval among ``n`` captions, and how many of them are not alone with their picture."""
    captions = scenes.sample_captions(n, seed, "test")
    keys = [picture_key(caption) for caption in captions]
    shares = retrieve(embed_renders(clip, captions, seed, advance), clip.texts(captions), keys)
    return {
        "captions_of_the_same_picture": sum(n for n in Counter(keys).values() if n > 1),
        "retrieval": {name: share.as_json() for name, share in shares.items()},
    }


def ask_attributes(clip: ClipFeatures, n: int, seed: int, advance: Advance) -> dict[str, Any]:
    """What ``n`` pictures say about each attribute."""
    return {
        name: tell_changed(clip, name, n, seed, advance).as_json() for name in scenes.ATTRIBUTES
    }
