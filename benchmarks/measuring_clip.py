"""How well the embedded CLIP measures: retrieval, single attributes, FID along a training.

    python benchmarks/measuring_clip.py --snapshots outputs/scenes/diffusion [--check]

Pictures are renders of held-out captions. Writes measuring_clip.md and .json into docs/ and, with
snapshots of the UNet, measuring_clip.png. Images of snapshots are kept: the same command goes on
from where it was interrupted.
"""

import argparse
import io
import json
import random
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

import scenes
from dgq.errors import DGQError, SettingsError
from dgq.files import read_tensors, write_json, write_tensors, written_beside
from dgq.pipelines import load_pipeline
from lit.console import print_error, quieten_libraries
from lit.evaluation.batching import batched
from lit.evaluation.clip_features import ClipFeatures
from lit.evaluation.estimate import Estimate, of_ratios
from lit.evaluation.extractors import Extractors
from lit.evaluation.fingerprint import pipeline_fingerprint
from lit.evaluation.images import to_images, to_tensor
from lit.evaluation.oracle import ALL, read_scenes
from lit.evaluation.progress import make_progress
from lit.evaluation.prompts import load_prompts
from lit.evaluation.protocol import Protocol
from lit.evaluation.quality import judge_alone
from lit.evaluation.references import References, render_references
from lit.evaluation.report.charts import COLOURS, DPI
from lit.evaluation.store import fingerprint
from scenes.changes import change, changeable
from scenes.intervals import wilson_interval
from scenes.training.measure import generate
from scenes.vocabulary import RELATIONS

ROOT = Path(__file__).parents[1]
NAME = "measuring_clip"
RETRIEVAL_BAR, ATTRIBUTE_BAR = 0.80, 0.95
DIRECTIONS = ("picture to caption", "caption to picture")
BATCH_SIZE = 64
INVERSES = {a: b for a in RELATIONS for b in RELATIONS if RELATIONS[a] == RELATIONS[b][::-1]}
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Share:
    """``hits`` of ``n`` questions, to be at least ``bar``; ``captions`` distinct ones asked."""

    hits: int
    n: int
    bar: float
    captions: int

    @property
    def value(self) -> float:
        """The share in [0, 1]."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        return wilson_interval(self.value, self.n)

    @property
    def met(self) -> bool:
        """Whether the share itself, not its interval, is at the bar."""
        return self.value >= self.bar

    def as_json(self) -> dict[str, Any]:
        """Everything about it."""
        derived = {"value": self.value, "interval": self.interval, "met": self.met}
        return asdict(self) | derived


@dataclass(frozen=True)
class Point:
    """What images of one moment of the training are worth; ``step`` is None for renders."""

    step: int | None
    fid: float
    clip_score: Estimate
    oracle_mean: Estimate
    oracle_all: Estimate


def main(argv: Sequence[str]) -> int:
    """Measure and write; returns 0, 1 if ``--check`` finds a bar missed, 2 for bad input."""
    options = make_parser().parse_args(argv)
    quieten_libraries()
    try:
        snapshots, final_step = check(options)
        extractors = Extractors(Protocol(clip=options.clip and str(options.clip)), True, "cpu")
        with make_progress(Console(stderr=True)) as progress:
            report = measure_clip(extractors, options, progress)
            points = []
            if snapshots:
                points = measure_training(extractors, snapshots, final_step, options, progress)
        report["training"] = describe_training(points, options.num_images) if points else None
        write(report, points, options.docs, shlex.join(argv))
    except (DGQError, OSError) as error:
        print_error(error)
        return 2
    shares = report["retrieval"] | report["attributes"]
    missed = [name for name, share in shares.items() if not share["met"]]
    print(f"bars missed: {', '.join(missed) or 'none'}")
    return int(options.check and bool(missed))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--captions", type=int, default=1000, help="to retrieve among (default: 1000)")
    add("--pictures", type=int, default=1000, help="for each attribute (default: 1000)")
    add("--snapshots", type=Path, help="folder with step-*.safetensors of the UNet's training")
    add("--final-step", type=int, help="of the pipeline's own UNet (default: last in log.jsonl)")
    add("--num-images", type=int, default=256, help="for each snapshot (default: 256)")
    add("--seed", type=int, default=0, help="of captions, renders and noise (default: 0)")
    add("--clip", type=Path, help="folder of the CLIP model (default: the embedded one)")
    own, kept = scenes.PIPELINE_DIR, Path("outputs") / NAME
    add("--pipeline", type=Path, default=own, help="that snapshots are of (default: embedded)")
    add("--images", type=Path, default=kept, help=f"of snapshots, kept here (default: {kept})")
    add("--docs", type=Path, default=ROOT / "docs", help="where results go (default: docs)")
    add("--check", action="store_true", help="exit with 1 if a bar is not met")
    return parser


def check(options: argparse.Namespace) -> tuple[dict[int, Path], int]:
    """Snapshots by step, none without ``--snapshots``, and the step of the pipeline's UNet.

    Raises:
        DGQError: if an option cannot be used.
    """
    for name in ("captions", "pictures", "num_images"):
        if getattr(options, name) < 2:
            option = "--" + name.replace("_", "-")
            raise SettingsError(f"{option} must be at least 2, got {getattr(options, name)}")
    if options.clip is not None and not (options.clip / "config.json").is_file():
        raise DGQError(f"--clip {options.clip} is no folder of a CLIP model with its config.json")
    if options.snapshots is None:
        return {}, 0
    if not (options.pipeline / "model_index.json").is_file():
        raise DGQError(f"--pipeline {options.pipeline} is no folder with a model_index.json")
    snapshots = find_snapshots(options.snapshots)
    final_step = options.final_step or last_step(options.snapshots)
    if final_step <= max(snapshots):
        raise SettingsError(
            f"the pipeline's UNet is of step {final_step}, but there is a snapshot of step "
            f"{max(snapshots)}: give the right --final-step"
        )
    return snapshots, final_step


def find_snapshots(folder: Path) -> dict[int, Path]:
    """Files of snapshots by their step, ascending."""
    matches = ((re.fullmatch(r"step-(\d+)\.safetensors", p.name), p) for p in folder.glob("*"))
    found = {int(match[1]): path for match, path in matches if match}
    if not found:
        raise DGQError(
            f"--snapshots {folder} holds no step-*.safetensors, as "
            "`python -m scenes.training diffusion` writes them into its folder"
        )
    return dict(sorted(found.items()))


def last_step(folder: Path) -> int:
    """How long the training of a folder went on."""
    try:
        return int(json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DGQError(
            f"{folder}/log.jsonl does not tell the last step ({error}): give --final-step"
        ) from error


def measure_clip(
    extractors: Extractors, options: argparse.Namespace, progress: Progress
) -> dict[str, Any]:
    """Retrieval and attributes, and what they were measured with."""
    clip, seed = extractors.clip, options.seed
    assert isinstance(clip, ClipFeatures)
    n_pictures = options.captions + len(scenes.ATTRIBUTES) * options.pictures
    task = progress.add_task("pictures seen", total=n_pictures)

    def advance(n: int) -> None:
        progress.advance(task, n)

    captions = scenes.sample_captions(options.captions, seed, "test")
    keys = [picture_key(caption) for caption in captions]
    retrieval = retrieve(embed_renders(clip, captions, seed, advance), clip.texts(captions), keys)
    attributes = {
        name: tell_changed(clip, name, options.pictures, seed, advance)
        for name in scenes.ATTRIBUTES
    }
    return {
        "clip": clip.name,
        "seed": seed,
        "captions_of_the_same_picture": sum(n for n in Counter(keys).values() if n > 1),
        "retrieval": {name: share.as_json() for name, share in retrieval.items()},
        "attributes": {name: share.as_json() for name, share in attributes.items()},
    }


def embed_renders(
    clip: ClipFeatures, captions: Sequence[str], seed: int, advance: Advance
) -> Tensor:
    """Embeddings [N, p] of a render of each caption, of the size that the model sees."""
    size = clip.model.config.vision_config.image_size
    parts = []
    for number, batch in enumerate(batched(captions, BATCH_SIZE)):
        parts.append(clip.images(to_images(scenes.render(batch, size, seed + number)))[1])
        advance(len(batch))
    return torch.cat(parts)


def retrieve(pictures: Tensor, texts: Tensor, keys: Sequence[str]) -> dict[str, Share]:
    """How often the nearest caption or picture is the right one, or one with the same key.

    Args:
        pictures: embeddings [N, p] of unit length.
        texts: embeddings [N, p] of unit length.
        keys: equal where captions describe the same picture, [N].
    """
    cosines = pictures @ texts.T
    shares = {}
    for name, table in zip(DIRECTIONS, (cosines, cosines.T), strict=True):
        nearest = table.argmax(1).tolist()
        hits = sum(keys[i] == keys[best] for i, best in enumerate(nearest))
        shares[name] = Share(hits, len(keys), RETRIEVAL_BAR, len(keys))
    return shares


def picture_key(caption: str) -> str:
    """The same for captions of the same picture: "A above B" is "B below A"."""
    scene = scenes.parse_caption(caption)
    if scene.relation is None:
        return caption
    mirrored = scenes.Scene(scene.items[::-1], scene.background, relation=INVERSES[scene.relation])
    return min(caption, scenes.describe(mirrored))


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
    return Share(int((wrong < right).sum()), n, ATTRIBUTE_BAR, len(set(captions)))


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


def measure_training(
    extractors: Extractors,
    snapshots: Mapping[int, Path],
    final_step: int,
    options: argparse.Namespace,
    progress: Progress,
) -> list[Point]:
    """Renders of the captions, then the images of each snapshot and of the pipeline itself."""
    pipeline = load_pipeline(str(options.pipeline))
    final = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    prompts = load_prompts(None, options.num_images, options.seed)
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    references = render_references(prompts, options.seed, size, extractors)
    assert references is not None
    n_images = (len(snapshots) + 1) * options.num_images
    task = progress.add_task("images of snapshots", total=n_images)

    def point(step: int | None, images: list[Image.Image]) -> Point:
        return judge(step, images, prompts.captions, extractors, references)

    points = [point(None, to_images(scenes.render(prompts.captions, size, options.seed)))]
    for step in (*snapshots, final_step):
        weights = read_tensors(snapshots[step])[0] if step in snapshots else final
        load_weights_(pipeline.unet, weights, snapshots.get(step, options.pipeline))
        images = images_of(pipeline, prompts.captions, options, lambda n: progress.advance(task, n))
        points.append(point(step, images))
    return points


def load_weights_(unet: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Put weights of any precision into a UNet, strictly."""
    try:
        unet.load_state_dict(weights)
    except RuntimeError as error:
        raise DGQError(f"{source} is not of this pipeline's UNet: {error}"[:300]) from error


def images_of(
    pipeline: DiffusionPipeline,
    captions: Sequence[str],
    options: argparse.Namespace,
    advance: Advance,
) -> list[Image.Image]:
    """Images of captions, drawn unless this pipeline has drawn them before."""
    guidance_scale, steps = scenes.GUIDANCE_SCALE, scenes.NUM_INFERENCE_STEPS
    settings = {
        "pipeline": pipeline_fingerprint(pipeline),
        "sampling": [guidance_scale, steps, options.seed],
        "captions": list(captions),
    }
    path = options.images / f"{fingerprint(settings)}.safetensors"
    if path.is_file():
        advance(len(captions))
        return to_images(read_tensors(path)[0]["images"] / 255)
    images = []
    for number, batch in enumerate(batched(captions, BATCH_SIZE)):
        with redirect_stdout(io.StringIO()):  # one progress bar is enough
            drawn = generate(pipeline, batch, guidance_scale, steps, options.seed + number)
        images += to_images(drawn)
        advance(len(batch))
    codes = (to_tensor(images) * 255).round().to(torch.uint8)
    write_tensors(path, {"images": codes}, {})
    return images


def judge(
    step: int | None,
    images: list[Image.Image],
    captions: Sequence[str],
    extractors: Extractors,
    references: References,
) -> Point:
    """Measure images as an evaluation does."""
    assert extractors.clip is not None
    seen = extractors.look(batched(images, BATCH_SIZE), len(images))
    quality = judge_alone(seen, references, extractors.clip.texts(captions), 1)
    read = read_scenes(batched(images, BATCH_SIZE), captions)
    faultless = {ALL: read.pop(ALL)}
    score, mean, all_ = (
        of_ratios([ratios], None) for ratios in (quality.ratios["clip_score"], read, faultless)
    )
    return Point(step, quality.values["fid"], score, mean, all_)


def describe_training(points: Sequence[Point], num_images: int) -> dict[str, Any]:
    """The points as JSON, and what they say."""
    return {
        "num_images": num_images,
        "steps": scenes.NUM_INFERENCE_STEPS,
        "guidance_scale": scenes.GUIDANCE_SCALE,
        "points": [asdict(point) for point in points],
        "fid_falls_monotonically": not rises(points),
    }


def rises(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    """Consecutive points of the training between which FID does not fall."""
    trained = [point for point in points if point.step is not None]
    return [(a, b) for a, b in pairwise(trained) if b.fid >= a.fid]


def write(report: dict[str, Any], points: Sequence[Point], docs: Path, arguments: str) -> None:
    """Write numbers, page and, if there was a training, the plot; print the page."""
    command = f"python benchmarks/{NAME}.py {arguments}".strip()
    page = "\n".join([*clip_lines(report, command), *training_lines(report, points)])
    write_json(docs / f"{NAME}.json", {"command": command} | report)
    if points:
        with written_beside(docs / f"{NAME}.png") as beside:
            plot(points).savefig(beside, format="png", dpi=DPI, metadata={"Software": None})
    with written_beside(docs / f"{NAME}.md") as beside:
        beside.write_text(page + "\n")
    print(page)


def clip_lines(report: dict[str, Any], command: str) -> list[str]:
    """Retrieval and attributes in Markdown."""
    retrieval, attributes = report["retrieval"], report["attributes"]
    n, n_same = retrieval[DIRECTIONS[0]]["n"], report["captions_of_the_same_picture"]
    same = "No two of them describe the same picture."
    if n_same:
        same = f"{n_same} of them share their picture with another (A above B is B below A)"
        same += " and count as found with either."
    return [
        "# How well the embedded CLIP measures",
        "",
        f"Of {report['clip']}; `{command}` makes this page. Captions are held out, pictures are",
        "their renders, intervals are Wilson's at 95 %; a bar is met by the share itself.",
        "",
        "## Retrieval",
        "",
        f"How often the nearest among {n} is the right one. {same}",
        "",
        *share_table("direction", retrieval),
        "",
        "## One attribute changed",
        "",
        "How often a picture is nearer to its caption than to the same caption with another value",
        "of one attribute (of one object; from either split). Few captions with a place or a count",
        "exist: these come several times, with other renders, so their intervals are optimistic.",
        "",
        *share_table("attribute", attributes),
    ]


def share_table(title: str, shares: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table of shares."""
    lines = [f"| {title} | pictures | captions | share | 95 % | bar | met |", "|---" * 7 + "|"]
    for name, share in shares.items():
        low, high = share["interval"]
        met = "yes" if share["met"] else "**no**"
        lines.append(
            f"| {name} | {share['n']} | {share['captions']} | {share['value']:.3f} | "
            f"{low:.3f} to {high:.3f} | {share['bar']:.2f} | {met} |"
        )
    return lines


def training_lines(report: dict[str, Any], points: Sequence[Point]) -> list[str]:
    """FID along the training in Markdown; nothing if it was not measured."""
    if not points:
        return []
    training = report["training"]
    lines = [
        *("", "## FID along the training of the UNet", ""),
        f"{training['num_images']} images of held-out captions for each: {training['steps']} "
        f"steps, guidance {training['guidance_scale']:g}, the same noise.",
        "FID is to renders of other held-out scenes; intervals are bootstrapped over captions.",
        "",
        *(f"![FID and oracle along the training]({NAME}.png)", ""),
        "| steps of training | FID | CLIP score | oracle mean | oracle all |",
        "|---" * 5 + "|",
    ]
    for point in points:
        cells = [
            interval_cell(point.clip_score, ".1f"),
            interval_cell(point.oracle_mean, ".3f"),
            interval_cell(point.oracle_all, ".3f"),
        ]
        name = "renders" if point.step is None else str(point.step)
        lines.append(f"| {name} | {point.fid:.2f} | {' | '.join(cells)} |")
    return [*lines, "", statement(points)]


def interval_cell(estimate: Estimate, digits: str) -> str:
    """A value with its interval."""
    assert estimate.interval is not None
    low, high = (format(end, digits) for end in estimate.interval)
    return f"{format(estimate.value, digits)} ({low} to {high})"


def statement(points: Sequence[Point]) -> str:
    """Whether FID falls monotonically."""
    exceptions = [
        f"from {a.fid:.2f} at {a.step} to {b.fid:.2f} at {b.step}" for a, b in rises(points)
    ]
    if exceptions:
        return f"FID does not fall monotonically: it goes {', '.join(exceptions)}."
    return "FID falls monotonically along the training."


def plot(points: Sequence[Point]) -> Figure:
    """FID and oracle over steps."""
    trained = [point for point in points if point.step is not None]
    steps = [point.step for point in trained if point.step is not None]
    figure = Figure(figsize=(5.5, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(steps, [point.fid for point in trained], "o-", color=COLOURS[0])
    for point in points:
        if point.step is None:
            upper.axhline(point.fid, color=COLOURS[-1], linestyle=":", label="renders")
    upper.set(yscale="log", ylabel="FID")
    for name, colour in zip(("oracle_mean", "oracle_all"), COLOURS, strict=False):
        draw_estimates(lower, steps, [getattr(p, name) for p in trained], name, colour)
    lower.set(xscale="log", xlabel="steps of training", ylabel="share right", ylim=(0, 1.02))
    lower.set_xticks(steps, [str(step) for step in steps])
    lower.xaxis.set_minor_locator(NullLocator())
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize="small", frameon=False)
    return figure


def draw_estimates(
    axes: Any, steps: Sequence[int], estimates: Sequence[Estimate], name: str, colour: str
) -> None:
    """A line with its intervals."""
    values = [estimate.value for estimate in estimates]
    low, high = zip(*(estimate.interval or (0.0, 1.0) for estimate in estimates), strict=True)
    axes.plot(steps, values, "o-", color=colour, label=name.replace("_", " "))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
