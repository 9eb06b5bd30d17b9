"""How well the embedded CLIP measures: retrieval, single attributes, FID over a training.

    python -m scenes.studies.measuring_clip --snapshots outputs/scenes/diffusion --num-images 512

Pictures are renders of held-out captions.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor

import scenes
from dgq.command_line.ending import exit_code
from dgq.errors import SettingsError
from evaluation.batching import batched
from evaluation.features.clip_features import ClipFeatures
from evaluation.images.files import to_images
from scenes.changes import change, changeable
from scenes.intervals import wilson_interval
from scenes.studies.snapshots import BATCH, HEADER, find_snapshots, training_rows
from scenes.studies.tables import table
from scenes.vocabulary import RELATIONS

RETRIEVAL_BAR, ATTRIBUTE_BAR = 0.80, 0.95
INVERSES = {a: b for a in RELATIONS for b in RELATIONS if RELATIONS[a] == RELATIONS[b][::-1]}


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0, 1 if ``--check`` finds a bar missed, 2 for bad input."""
    options = make_parser().parse_args(argv)
    return exit_code(lambda: run(options))


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog="python -m scenes.studies.measuring_clip",
        description="How well the embedded CLIP measures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--captions", type=int, default=1000, help="captions to retrieve from")
    add("--pictures", type=int, default=1000, help="pictures for each attribute")
    add("--snapshots", type=Path, help="folder with step-*.safetensors of the UNet's training")
    add("--num-images", type=int, default=512, help="pictures for each snapshot")
    add("--clip", type=Path, help="folder of the CLIP model; by default the embedded one")
    add("--pipeline", type=Path, default=scenes.PIPELINE_DIR, help="pipeline of the snapshots")
    add("--check", action="store_true", help="exit with 1 if a bar is missed")
    return parser


def run(options: argparse.Namespace) -> int:
    """Measure everything; the exit code."""
    for name in ("captions", "pictures", "num_images"):
        if getattr(options, name) < 2:
            option = "--" + name.replace("_", "-")
            raise SettingsError(f"{option} must be at least 2, got {getattr(options, name)}")
    snapshots = [] if options.snapshots is None else find_snapshots(options.snapshots)
    clip = ClipFeatures(options.clip)
    rows, missed = share_rows(clip, options.captions, options.pictures)
    print(table(("question", "pictures", "share", "95 %", "bar"), rows))
    if snapshots:
        print()
        print(table(HEADER, training_rows(clip, options.pipeline, snapshots, options.num_images)))
    print(f"bars missed: {', '.join(missed) or 'none'}")
    return int(options.check and bool(missed))


def share_rows(
    clip: ClipFeatures, n_captions: int, n_pictures: int
) -> tuple[list[list[str]], list[str]]:
    """Table rows with the shares of right answers, and the questions whose bar is missed."""
    asked = [
        (name, value, n_captions, RETRIEVAL_BAR)
        for name, value in retrieval(clip, n_captions).items()
    ]
    asked += [
        (f"{name} changed", tell_changed(clip, name, n_pictures), n_pictures, ATTRIBUTE_BAR)
        for name in scenes.ATTRIBUTES
    ]
    rows = [share_row(*each) for each in asked]
    return rows, [name for name, value, _, bar in asked if value < bar]


def share_row(name: str, value: float, n: int, bar: float) -> list[str]:
    """The table row of a question, with Wilson's interval."""
    low, high = wilson_interval(value, n)
    return [name, str(n), f"{value:.3f}", f"{low:.3f} to {high:.3f}", f"{bar:.2f}"]


def retrieval(clip: ClipFeatures, n: int) -> dict[str, float]:
    """How often the nearest of n captions is the picture's own, and the other way round."""
    captions = scenes.sample_captions(n, 0, "test")
    keys = [picture_key(caption) for caption in captions]
    cosines = embed_renders(clip, captions) @ clip.texts(captions).T
    return {
        "picture to caption": share_nearest(cosines, keys),
        "caption to picture": share_nearest(cosines.T, keys),
    }


def share_nearest(cosines: Tensor, keys: Sequence[str]) -> float:
    """Share of the rows of ``[N, N]`` whose largest entry has the row's own key."""
    nearest: list[int] = cosines.argmax(1).tolist()
    return sum(keys[i] == keys[best] for i, best in enumerate(nearest)) / len(keys)


def picture_key(caption: str) -> str:
    """A key that captions of the same picture share: "A above B" is "B below A"."""
    scene = scenes.parse_caption(caption)
    if scene.relation is None:
        return caption
    mirrored = scenes.Scene(scene.items[::-1], scene.background, relation=INVERSES[scene.relation])
    return min(caption, scenes.describe(mirrored))


def tell_changed(clip: ClipFeatures, attribute: str, n: int) -> float:
    """How often a picture is nearer to its caption than to that with the attribute changed."""
    captions, draws = captions_about(attribute, n), random.Random(f"{attribute} 0")
    changed = [scenes.describe(change(scenes.parse_caption(c), attribute, draws)) for c in captions]
    pictures = embed_renders(clip, captions)
    right, wrong = ((pictures * clip.texts(texts)).sum(1) for texts in (captions, changed))
    return float((wrong < right).float().mean())


def captions_about(attribute: str, n: int) -> list[str]:
    """The first n held-out captions that mention an attribute; some may repeat."""
    draws = (caption for seed in count() for caption in scenes.sample_captions(n, seed, "test"))
    return list(islice((c for c in draws if attribute in changeable(scenes.parse_caption(c))), n))


def embed_renders(clip: ClipFeatures, captions: Sequence[str]) -> Tensor:
    """Embeddings ``[N, p]`` of a render of each caption, at the model's input size."""
    size = clip.model.config.vision_config.image_size
    parts = enumerate(batched(captions, BATCH))
    return torch.cat([clip.images(to_images(scenes.render(p, size, i)))[1] for i, p in parts])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
