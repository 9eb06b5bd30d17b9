"""The command line: which trials, and where the answers go."""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dgq.errors import DGQError, SettingsError
from dgq.files import write_json, written_beside
from dgq.settings import check_positive
from lit.console import print_error, quieten_libraries
from trials.measure import Effort, measure_trial
from trials.page import page
from trials.training import Place, last_error, prepare_shared, seconds, train
from trials.variants import VARIANTS, shortened

ROOT = Path(__file__).parents[2]
NAME = "trials"
COMMAND = f"python benchmarks/{NAME}"
MEASURED = "measured.json"


def main(argv: Sequence[str]) -> int:
    """Train, measure and write; the exit code, 2 after one line about bad input."""
    options = make_parser().parse_args(argv)
    options.command = f"{COMMAND} {shlex.join(argv)}".strip()
    quieten_libraries()
    try:
        run(options)
    except (DGQError, OSError, ValueError) as error:
        print_error(error)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Short trainings of the embedded UNet, few changes each: what makes it more "
        f"like Stable Diffusion, and what that costs. Writes {NAME}.md and {NAME}.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--trials",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="NAME",
        help="to train and to put into the tables, beside those that are finished",
    )
    add("--steps", type=int, default=600, help="of training; a trial may multiply them")
    add("--images", type=int, default=256, help="scored by the oracle, for each trial")
    add("--prompts", type=int, default=16, help="whose likeness is measured")
    add("--held-out", type=int, default=8, help="prompts compared with activations at 6 bits")
    add("--processes", type=int, default=2, help="that train a UNet together")
    add("--outputs", type=Path, default=Path("outputs") / NAME, help="where trainings go")
    add("--docs", type=Path, default=ROOT / "docs", help="where tables go")
    return parser


def run(options: argparse.Namespace) -> None:
    """Every trial that is asked for, then the tables of all that are finished."""
    for name in ("steps", "images", "prompts", "held_out", "processes"):
        check_positive("--" + name.replace("_", "-"), getattr(options, name))
    place = Place(options.outputs / str(options.steps), options.processes)
    effort = Effort(options.images, options.prompts, options.held_out)
    settings = shortened(options.steps)
    prepare_shared(settings, place)
    for name in options.trials:
        Console().print(f"{name}: {VARIANTS[name].title}", highlight=False)
        run_trial(name, options.steps, place, effort)
    write(options, place)


def run_trial(name: str, steps: int, place: Place, effort: Effort) -> None:
    """Train and measure a trial, unless its figures are there."""
    path, variant = place.work(name) / MEASURED, VARIANTS[name]
    asked = vars(effort)
    if path.is_file():
        known = json.loads(path.read_text())["effort"]
        if known != asked:
            raise SettingsError(
                f"{path} was measured with {known}, now asked for {asked}: remove it, or ask alike"
            )
        return
    settings = variant.change(shortened(steps))
    work = train(name, variant, settings, place)
    figures = measure_trial(settings, work, effort)
    trained = {"steps": settings.diffusion.fit.steps, "seconds": seconds(work)}
    trained["error"] = last_error(work)
    write_json(path, {"effort": asked, "title": variant.title, "training": trained} | figures)


def write(options: argparse.Namespace, place: Place) -> None:
    """The tables of all trials that are finished."""
    finished: dict[str, dict[str, Any]] = {
        name: json.loads((place.work(name) / MEASURED).read_text())
        for name in VARIANTS
        if (place.work(name) / MEASURED).is_file()
    }
    write_json(options.docs / f"{NAME}.json", {"command": options.command, "trials": finished})
    with written_beside(options.docs / f"{NAME}.md") as beside:
        beside.write_text(page(finished, options.command, options.steps))
