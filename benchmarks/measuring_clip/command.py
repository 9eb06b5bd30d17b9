"""The command line: what to measure, and where the answer goes."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import scenes
from benchmarks.measuring_clip.measure import measure_clip
from benchmarks.measuring_clip.page import page
from benchmarks.measuring_clip.plot import plot
from benchmarks.measuring_clip.points import Point, describe_training
from benchmarks.measuring_clip.snapshots import find_snapshots, last_step
from benchmarks.measuring_clip.training import measure_training
from dgq.errors import DGQError, SettingsError
from dgq.storage.files import write_json, written_beside
from evaluation.clip_features import ClipFeatures
from evaluation.extractors import Extractors
from evaluation.progress import make_progress
from evaluation.protocol import Protocol
from evaluation.report.charts import DPI
from lit.console import print_error, quieten_libraries

ROOT = Path(__file__).parents[2]
NAME = "measuring_clip"
COMMAND = f"python benchmarks/{NAME}"


def main(argv: Sequence[str]) -> int:
    """Measure and write; returns 0, 1 if ``--check`` finds a bar missed, 2 for bad input."""
    options = make_parser().parse_args(argv)
    quieten_libraries()
    try:
        report, points = run(options)
        write(report, points, options.docs, f"{COMMAND} {shlex.join(argv)}".strip())
    except (DGQError, OSError) as error:
        print_error(error)
        return 2
    shares = report["retrieval"] | report["attributes"]
    missed = [name for name, share in shares.items() if not share["met"]]
    print(f"bars missed: {', '.join(missed) or 'none'}")
    return int(options.check and bool(missed))


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Measure how well the embedded CLIP measures: retrieval, single attributes, "
        f"FID along a training. Writes {NAME}.md, {NAME}.json and, with snapshots, {NAME}.png.",
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
    add(
        "--docs",
        type=Path,
        default=ROOT / "docs/explanation/embedded-model",
        help="where results go",
    )
    add("--check", action="store_true", help="exit with 1 if a bar is not met")
    return parser


def run(options: argparse.Namespace) -> tuple[dict[str, Any], list[Point]]:
    """Measure everything; returns all numbers, and the points of the training among them."""
    check(options)
    snapshots, final_step = choose_snapshots(options)
    extractors = Extractors(Protocol(clip=options.clip and str(options.clip)), True, "cpu")
    assert isinstance(extractors.clip, ClipFeatures)
    points = []
    with make_progress(Console(stderr=True)) as progress:
        report = measure_clip(extractors.clip, options, progress)
        if snapshots:
            points = measure_training(extractors, snapshots, final_step, options, progress)
    report["training"] = describe_training(points, options.num_images) if points else None
    return report, points


def check(options: argparse.Namespace) -> None:
    """Raise DGQError if an option cannot be used, whatever the snapshots."""
    for name in ("captions", "pictures", "num_images"):
        if getattr(options, name) < 2:
            option = "--" + name.replace("_", "-")
            raise SettingsError(f"{option} must be at least 2, got {getattr(options, name)}")
    if options.clip is not None and not (options.clip / "config.json").is_file():
        raise DGQError(f"--clip {options.clip} is no folder of a CLIP model with its config.json")


def choose_snapshots(options: argparse.Namespace) -> tuple[dict[int, Path], int]:
    """Snapshots by step, none without ``--snapshots``, and the step of the pipeline's UNet.

    Raises:
        DGQError: if they cannot be used.
    """
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


def write(report: dict[str, Any], points: Sequence[Point], docs: Path, command: str) -> None:
    """Write numbers, page and, if there was a training, the plot; print the page."""
    text = page(report, points, command, f"{NAME}.png")
    write_json(docs / f"{NAME}.json", {"command": command} | report)
    if points:
        with written_beside(docs / f"{NAME}.png") as beside:
            plot(points).savefig(beside, format="png", dpi=DPI, metadata={"Software": None})
    with written_beside(docs / f"{NAME}.md") as beside:
        beside.write_text(text + "\n")
    print(text)
