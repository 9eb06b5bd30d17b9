"""The command: calibrates and measures what is missing, and writes the tables."""

import argparse
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation.cells import Cell
from benchmarks.ablation.held_out import HeldOut, held_out_calls
from benchmarks.ablation.images import drawn
from benchmarks.ablation.measure import measure
from benchmarks.ablation.page import page, readme_section, with_section
from benchmarks.ablation.remaining import Remaining
from benchmarks.ablation.runs import calibrated, fit_arguments, model_of, run_of
from benchmarks.ablation.stages import FAMILIES, MODELS, SEEDS, Choice, cells_of
from benchmarks.ablation.store import Store
from benchmarks.scripts import ROOT, exit_code
from dgq.command_line.console import print_line
from dgq.errors import SettingsError
from dgq.settings.checks import check_not_negative, check_positive, check_whole
from dgq.storage.files import write_json, written_beside

STAGES = ("main", "components", "scores", "samples")
QUICK_PROMPTS = 4
NARROWING = ("stages", "models", "seeds", "recipes", "prompts", "published_iterations", "quick")
"""Options that leave out cells, or measure them on other prompts."""


def main(argv: Sequence[str]) -> int:
    """Run the command; exit code 0, or 2 after one line about bad input."""
    arguments = build_parser().parse_args(argv)
    how = f"python benchmarks/ablation {shlex.join(argv)}".strip()
    return exit_code(lambda: run(arguments, how))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/ablation",
        description="Calibrate, measure and tabulate every recipe, and the parts of DGQ.",
    )
    add = parser.add_argument
    add("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="stages (default: all)")
    add("--models", nargs="+", choices=(*MODELS, "scenes-few-step"), default=list(MODELS))
    add("--seeds", type=int, nargs="+", default=list(SEEDS), help="seeds (default: 0 1 2)")
    add(
        "--recipes",
        nargs="+",
        choices=[family.rstrip("_") or "ours" for family in FAMILIES],
        help="families of recipes (default: all)",
    )
    add("--prompts", type=int, default=64, help="held-out prompts to measure on (default: 64)")
    add(
        "--full",
        action="store_true",
        help="also W8A8, every recipe with every seed, and all stages for every model",
    )
    add("--quick", action="store_true", help="only RTN, one seed of one model, few prompts")
    add(
        "--published-iterations",
        type=int,
        default=1000,
        help="iterations of the published weight learning (published: 20000); 0 leaves it out "
        "(default: 1000)",
    )
    add("--num-images", type=int, default=0, help="images to draw and measure (default: none)")
    add("--minutes", type=float, help="start no cell after this many minutes (default: no limit)")
    add("--list", action="store_true", help="only print cells and estimated time")
    add("--outputs", type=Path, default=Path("outputs/ablation"), help="folder for runs")
    add(
        "--docs",
        type=Path,
        help="folder for results.md and results.json (default: docs/reference once all cells are "
        "measured; until then, and for a part of the cells, --outputs)",
    )
    add(
        "--readme",
        type=Path,
        help="file whose tables are replaced (default: README.md once all cells are measured)",
    )
    return parser


def is_whole(arguments: argparse.Namespace) -> bool:
    """Whether no option restricts the tables."""
    default = build_parser().parse_args([])
    return all(getattr(arguments, name) == getattr(default, name) for name in NARROWING)


def choice_of(arguments: argparse.Namespace) -> Choice:
    """The selection that the options request."""
    if arguments.quick:
        return Choice(
            ("main",), MODELS[:1], (0,), ("rtn_",), n_prompts=QUICK_PROMPTS, published_iterations=0
        )
    by_name = {family.rstrip("_") or "ours": family for family in FAMILIES}
    names = arguments.recipes or list(by_name)
    return Choice(
        arguments.stages,
        arguments.models,
        arguments.seeds,
        [by_name[name] for name in names],
        arguments.full,
        arguments.published_iterations,
    )


def check_numbers(arguments: argparse.Namespace) -> None:
    """Raise SettingsError for a number outside its domain."""
    check_positive("--prompts", arguments.prompts)
    check_whole("--published-iterations", arguments.published_iterations)
    check_whole("--num-images", arguments.num_images)
    check_not_negative("--minutes", arguments.minutes or 0.0)
    for seed in arguments.seeds:
        check_whole("--seeds", seed)
    if len(set(arguments.seeds)) < len(arguments.seeds):
        raise SettingsError("--seeds names one twice")


def run(arguments: argparse.Namespace, how: str) -> None:
    """Calibrate and measure everything that is missing, cell by cell, writing tables after each.

    Raises:
        DGQError: for a number outside its domain, before anything is started.
    """
    check_numbers(arguments)
    cells = cells_of(choice_of(arguments))
    outputs = arguments.outputs
    n_prompts = QUICK_PROMPTS if arguments.quick else arguments.prompts
    store = Store(outputs / "cells.jsonl")
    remaining = Remaining(cells, store, outputs, n_prompts)
    if arguments.list:
        for cell in cells:
            print_line(f"{remaining.state(cell)}  {cell.name}")
        print_line(remaining.text())
        return
    held_out: dict[str, HeldOut] = {}
    minutes = math.inf if arguments.minutes is None else arguments.minutes
    deadline = time.monotonic() + 60 * minutes
    for number, cell in enumerate(cells, 1):
        if store.find(cell, n_prompts) is None:
            if time.monotonic() >= deadline:
                write(cells, store, [], n_prompts, arguments, how)
                print_line(f"stopped by --minutes: the same command resumes; {remaining.text()}")
                return
            print_line(f"[{number}/{len(cells)}] {cell.name}; {remaining.text()}")
            finish(cell, store, held_out, n_prompts, outputs)
            remaining.update()
        write(cells, store, [], n_prompts, arguments, how)
    if arguments.num_images:
        images = drawn(cells, outputs, arguments.num_images)
        write(cells, store, images, n_prompts, arguments, how)


def finish(
    cell: Cell, store: Store, held_out: dict[str, HeldOut], n_prompts: int, outputs: Path
) -> None:
    """Calibrate a cell's run if necessary, measure it, and record the result."""
    started = time.process_time()
    calibrated(cell.calibration, outputs)
    folder = model_of(cell, outputs)
    model = cell.calibration.model
    if model not in held_out:
        held_out[model] = held_out_calls(model, n_prompts, outputs / "held-out")
    found = measure(folder, held_out[model], n_prompts)
    store.add(
        cell,
        n_prompts,
        {
            "model": model,
            "seed": cell.calibration.seed,
            "folder": str(folder),
            "commands": commands(cell, outputs),
            "measuring_cpu_s": round(time.process_time() - started, 1),
            **found,
        },
    )


def commands(cell: Cell, outputs: Path) -> list[str]:
    """The commands that made a cell: the calibration, and the change of its activations."""
    fit = shlex.join(fit_arguments(cell.calibration, outputs))
    made = [f"python train.py fit {fit} --run {run_of(cell.calibration, outputs)}"]
    if not cell.as_calibrated:
        changes = ", ".join(f"{name}={value!r}" for name, value in cell.changes.items())
        made.append(f"from the ranges that it observed: dataclasses.replace(recipe, {changes})")
    return made


def write(
    cells: Sequence[Cell],
    store: Store,
    images: Sequence[Mapping[str, Any]],
    n_prompts: int,
    arguments: argparse.Namespace,
    how: str,
) -> None:
    """Write page, numbers and README's tables; the project's own once all cells are there."""
    found = [(cell, store.find(cell, n_prompts)) for cell in cells]
    lines = [
        {"stage": cell.stage, "row": cell.row, "bits": cell.bits, **line}
        for cell, line in found
        if line is not None
    ]
    complete = is_whole(arguments) and len(lines) == len(cells)
    folder = arguments.docs or (ROOT / "docs/reference" if complete else arguments.outputs)
    readme = arguments.readme or (ROOT / "README.md" if complete else None)
    write_json(folder / "results.json", {"command": how, "cells": lines, "images": list(images)})
    write_text(folder / "results.md", page(lines, images, how))
    if readme is not None and readme.is_file():
        text = readme.read_text(encoding="utf-8")
        write_text(readme, with_section(text, readme_section(lines, images)))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, unless it has this content already."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")
