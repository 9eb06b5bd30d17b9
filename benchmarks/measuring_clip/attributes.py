"""Single attributes: whether a picture is told from a caption with one of them changed."""

import random
from itertools import count, islice

import scenes
from benchmarks.measuring_clip.renders import Advance, embed_renders
from benchmarks.measuring_clip.share import Share
from evaluation.clip_features import ClipFeatures
from scenes.changes import change, changeable

BAR = 0.95


def tell_changed(clip: ClipFeatures, attribute: str, n: int, seed: int, advance: Advance) -> Share:
    """How often a picture is nearer to its caption than to one with the attribute changed."""
    captions = captions_about(attribute, n, seed)
    generator = random.Random(f"{attribute} {seed}")
    changed = [
        scenes.describe(change(scenes.parse_caption(caption), attribute, generator))
        for caption in captions
    ]
    pictures = embed_renders(clip, captions, seed, advance)
    right, wrong = ((pictures * clip.texts(texts)).sum(1) for texts in (captions, changed))
    return Share(int((wrong < right).sum()), n, BAR, len(set(captions)))


def captions_about(attribute: str, n: int, seed: int) -> list[str]:
    """The first ``n`` held-out captions that speak of an attribute.

    They are drawn in sets of distinct ones. Few with a place or a count exist: these come in
    several sets, and are to be rendered anew each time.
    """
    draws = (scenes.sample_captions(n, seed + more, "test") for more in count())
    about = (
        caption
        for captions in draws
        for caption in captions
        if attribute in changeable(scenes.parse_caption(caption))
    )
    return list(islice(about, n))
