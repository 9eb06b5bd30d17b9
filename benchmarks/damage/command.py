"""Calibrate, draw, judge, compare with chance and with each other: the command."""

import argparse
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from benchmarks.damage.noise import (
    SIGNS,
    THRESHOLD,
    Judged,
    advantage,
    deviations,
    features_of,
    images_needed,
    judge,
    look,
    paired_sd,
    render_distances,
    seed_values,
    spread,
    sqnr_of_prompts,
)
from benchmarks.damage.report import COLUMNS, PAIR_COLUMNS, write
from benchmarks.scripts import ROOT, calibrate, call, exit_code
from dgq.errors import SettingsError
from evaluation.command_line import parse_settings
from evaluation.gaussian import fit_gaussian
from evaluation.models import find_models, locate, run_folder
from evaluation.plan import Plan, prepare
from evaluation.references import render_references

RECIPES = ("rtn_w8a8", "rtn_w4a8", "rtn_w4a6", "rtn_w4a5", "rtn_w4a4")
"""From many bits to few."""

PAIR_RANGE_DB = (0.5, 2.0)
"""Two recipes this far apart in SQNR differ by about a decibel."""

MIN_SEEDS = 3
"""Two give a single distance between images in full precision, which has no deviation."""


def main(argv: Sequence[str]) -> int:
    """Calibrate, draw, measure and write; the exit code, 2 after one line about bad input."""
    arguments = parse(argv)

    def work() -> None:
        runs = [arguments.outputs / name for name in RECIPES]
        rivals = check(arguments, runs)
        for run in runs:
            calibrate(run)
        report, plan, alone = draw([*runs, *rivals], arguments)
        command = f"python benchmarks/damage {shlex.join(argv)}".strip()
        figures = {"command": command, **measure(report, plan, alone, arguments.draws)}
        print(write(figures, arguments.docs))

    return exit_code(work)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/damage",
        description="At which bits each metric begins to see rounding to nearest.",
    )
    parser.add_argument("--num-images", type=int, default=512, help="images (default: 512)")
    parser.add_argument(
        "--outputs", type=Path, default=Path("outputs"), help="where runs go (default: outputs)"
    )
    parser.add_argument(
        "--docs",
        type=Path,
        default=ROOT / "docs/explanation/embedded-model",
        help="where tables go",
    )
    parser.add_argument(
        "--rivals",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="other calibrated recipes, run folders or folders of exported models: any two recipes "
        "with the same bits whose SQNR differs by about 1 dB are compared (default: none)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="of the noise: the first draws the images of all models, the others those of full "
        "precision that show how far chance goes (default: 0 1 2)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=8,
        help="sets of renders whose FID shows how far chance goes (default: 8)",
    )
    parser.add_argument(
        "--devices", type=int, default=1, help="processes that draw images (default: 1)"
    )
    return parser.parse_args(argv)


def check(arguments: argparse.Namespace, runs: Sequence[Path]) -> list[Path]:
    """The rivals, each once and without the runs that are compared anyway.

    Raises:
        DGQError: before anything is done, if a number is too small or a rival is not there.
    """
    for option, value in (("--num-images", arguments.num_images), ("--draws", arguments.draws)):
        if value < 2:
            raise SettingsError(f"{option} must be at least 2, since one has no deviation")
    if len(set(arguments.seeds)) < max(MIN_SEEDS, len(arguments.seeds)):
        raise SettingsError(f"--seeds must be at least {MIN_SEEDS} different ones")
    known = {run.resolve() for run in runs}
    others = [rival for rival in arguments.rivals if run_folder(rival).resolve() not in known]
    rivals = list({locate(rival).resolve(): rival for rival in others}.values())
    find_models(rivals)
    return rivals


def draw(runs: Sequence[Path], arguments: argparse.Namespace) -> tuple[dict[str, Any], Plan, Plan]:
    """All images by evaluate.py: of the models with the first seed, of full precision with all.

    Returns:
        The report on the models, and where to find the images of both calls.
    """
    n, seeds = str(arguments.num_images), [str(seed) for seed in arguments.seeds]
    output = arguments.outputs / f"damage-{n}"
    shared = ["--protocol", "scenes", "--num-images", n, "--devices", str(arguments.devices)]
    shared += ["--images", str(arguments.outputs / "images"), "--overwrite"]
    models = [*shared, "--output", str(output), "--seeds", seeds[0], "--ckpt", *map(str, runs)]
    call("evaluate.py", *models)
    report: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    alone = [*shared, "--output", f"{output}-seeds", "--seeds", *seeds]
    alone += ["--pipeline", report["protocol"]["pipeline"]]
    call("evaluate.py", *alone)
    return report, prepare(parse_settings(models)), prepare(parse_settings(alone))


def measure(report: dict[str, Any], plan: Plan, alone: Plan, draws: int) -> dict[str, Any]:
    """All figures of the page, from images that are there.

    Args:
        report: on the models of ``plan``, by evaluate.py.
        plan: of all models with the first seed.
        alone: of full precision with all seeds.
        draws: of renders.
    """
    n, size = len(plan.prompts.captions), next(plan.stores(0)[0].measured(1))[0].width
    references = features_of(render_references(plan.prompts, plan.seeds[0], size, plan.extractors))
    real = fit_gaussian(references)
    seeds = [look(alone, 0, position) for position in range(len(alone.seeds))]
    floors = {key: {"seeds": spread(v)} for key, v in seed_values(seeds, real).items()}
    floors["fid"]["renders"] = spread(render_distances(n, draws, size, plan.extractors))
    full = judge(seeds[0], seeds[0], real)
    numbers = range(1, len(plan.models))
    judged = [judge(look(plan, number), seeds[0], real) for number in numbers]
    models = [
        describe(report["models"][number], one, full, floors, sqnr_of_prompts(plan, number))
        for number, one in zip(numbers, judged, strict=True)
    ]
    return {
        "num_images": n,
        "seeds": list(alone.seeds),
        "draws": draws,
        "n_references": len(references),
        "pipeline_sha256": plan.pipeline_sha256,
        "full_precision": full.values,
        "floors": floors,
        "bits": models[: len(RECIPES)],
        "rivals": models[len(RECIPES) :],
        "pair_range_db": list(PAIR_RANGE_DB),
        "pairs": list(compare_pairs(models, judged, n)),
    }


def describe(
    model: Mapping[str, Any],
    judged: Judged,
    full: Judged,
    floors: Mapping[str, Mapping[str, Mapping[str, Any]]],
    sqnr_db: Sequence[float],
) -> dict[str, Any]:
    """One model: its numbers, and how far beyond the noise they have changed for the worse.

    Args:
        model: its part of the report by evaluate.py.
        judged: its metrics.
        full: those in full precision.
        floors: mean and deviation of each metric where nothing is quantized, by kind of chance.
        sqnr_db: of single prompts.
    """
    bits, psnr = model["quantization"], judged.values["psnr"]
    return {
        "name": model["name"],
        "bits": f"W{bits['weights']['n_bits']}A{bits['activations']['n_bits']}",
        "sqnr_db": model["sqnr"]["plain"]["mean_db"],
        "sqnr_sd_db": spread(sqnr_db)["sd"],
        "psnr_db": psnr if math.isfinite(psnr) else None,
        "metrics": {key: _change(key, judged, full, floors[key]) for key in COLUMNS},
    }


def _change(
    key: str, judged: Judged, full: Judged, floors: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Of one metric; what full precision has no value of is compared with its other seeds."""
    known = key in full.values
    value = judged.values[key]
    difference = value - (full.values[key] if known else floors["seeds"]["mean"])
    prompts_sd = paired_sd(judged, full if known else None, key)
    largest = max(prompts_sd, *(floor["sd"] for floor in floors.values()))
    return {
        "value": value,
        "difference": difference,
        "prompts_sd": prompts_sd,
        "largest_sd": largest,
        "sds": deviations(-SIGNS[key] * difference, largest),
    }


def compare_pairs(
    models: Sequence[Mapping[str, Any]], judged: Sequence[Judged], n: int
) -> Iterator[dict[str, Any]]:
    """Every two models with the same bits and SQNR about a decibel apart, and what tells them.

    Args:
        models: as ``describe`` makes them.
        judged: their metrics.
        n: images.
    """
    for a, b in permutations(range(len(models)), 2):
        better, worse = models[a], models[b]
        if better["bits"] != worse["bits"] or None in (better["sqnr_db"], worse["sqnr_db"]):
            continue
        apart = better["sqnr_db"] - worse["sqnr_db"]
        if PAIR_RANGE_DB[0] <= apart <= PAIR_RANGE_DB[1]:
            sds = {key: advantage(key, judged[a], judged[b]) for key in PAIR_COLUMNS}
            yield {
                "bits": better["bits"],
                "better": better["name"],
                "worse": worse["name"],
                "sqnr_db": apart,
                "sds": sds,
                "told_apart_by": [key for key, value in sds.items() if value > THRESHOLD],
                "images_needed": images_needed(max(sds[key] for key in COLUMNS), n),
            }
