"""The command line: which trials, and where the answers go."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.likeness.figures import rounded
from benchmarks.trials.measure import Effort, measure_trial
from benchmarks.trials.page import page, summary
from benchmarks.trials.training import Place, last_error, prepare_shared, train
from benchmarks.trials.variants import VARIANTS, shortened
from dgq.errors import DGQError, SettingsError
from dgq.settings import check_positive
from dgq.storage.files import write_json, written_beside
from lit.console import print_error, quieten_libraries

ROOT = Path(__file__).parents[2]
NAME = "trials"
COMMAND = f"python benchmarks/{NAME}"
MEASURED = "measured.json"


def main(argv: Sequence[str]) -> int:
    """Train, measure and write; the exit code, 2 after one line about bad input."""
    options = make_parser().parse_args(argv)
    quieten_libraries()
    try:
        run(options)
    except (DGQError, OSError) as error:
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
    add("--steps", type=int, default=600, help="of training")
    add("--images", type=int, default=256, help="scored by the oracle, for each trial")
    add("--prompts", type=int, default=16, help="whose likeness is measured")
    add("--held-out", type=int, default=8, help="prompts compared with activations at 6 bits")
    add("--processes", type=int, default=2, help="that train a UNet together")
    add("--outputs", type=Path, default=Path("outputs") / NAME, help="where trainings go")
    add(
        "--docs",
        type=Path,
        default=ROOT / "docs/explanation/embedded-model",
        help="where tables go",
    )
    return parser


def run(options: argparse.Namespace) -> None:
    """Every trial that is asked for, then the tables of all that are finished."""
    for name in ("steps", "images", "prompts", "held_out", "processes"):
        check_positive("--" + name.replace("_", "-"), getattr(options, name))
    place = Place(options.outputs, options.steps, options.processes)
    effort = Effort(options.images, options.prompts, options.held_out)
    check_processes(options.processes)
    finished(place, effort)  # refuses what does not fit, before hours of training
    prepare_shared(shortened(options.steps), place)
    for name in options.trials:
        Console().print(f"{name}: {VARIANTS[name].title}", highlight=False)
        if name not in finished(place, effort):
            run_trial(name, place, effort)
    write(options, finished(place, effort))


def check_processes(n: int) -> None:
    """Raise SettingsError unless so many processes can share every trial's batches equally."""
    sizes = {VARIANTS[name].change(shortened(1)).diffusion.fit.batch_size for name in VARIANTS}
    if any(size % n for size in sizes):
        raise SettingsError(f"--processes {n} cannot share batches of {sizes} equally")


def run_trial(name: str, place: Place, effort: Effort) -> None:
    """Train and measure a trial."""
    variant = VARIANTS[name]
    settings = variant.change(shortened(place.steps))
    work = train(name, variant, settings, place)
    figures = measure_trial(settings, work, effort)
    training = {"error": last_error(work)}
    content = identity(name, place, effort) | {"training": training} | figures
    write_json(place.work(name) / MEASURED, content)


def identity(name: str, place: Place, effort: Effort) -> dict[str, Any]:
    """What a trial's figures are determined by, as it will be read back."""
    settings = asdict(VARIANTS[name].change(shortened(place.steps)))
    used = {part: settings[part] for part in ("clip", "autoencoder", "latents", "diffusion")}
    content: dict[str, Any] = json.loads(json.dumps({"effort": vars(effort), "settings": used}))
    return content


def finished(place: Place, effort: Effort) -> dict[str, dict[str, Any]]:
    """The figures of all trials that are finished, by name.

    Raises:
        SettingsError: if some are of other settings, or measured with another effort.
    """
    found = {}
    for name in VARIANTS:
        path = place.work(name) / MEASURED
        if not path.is_file():
            continue
        found[name] = json.loads(path.read_text())
        for part, expected in identity(name, place, effort).items():
            if found[name].get(part) != expected:
                raise SettingsError(
                    f"{path} is of another {part} than asked for now: remove its folder, ask "
                    "alike, or choose another one with --outputs"
                )
    return found


def write(options: argparse.Namespace, trials: dict[str, dict[str, Any]]) -> None:
    """The tables of all trials that are finished."""
    # As one command would have made them, in however many parts they were run.
    command = f"{COMMAND} --steps {options.steps}"
    summaries = {name: rounded(summary(measured)) for name, measured in trials.items()}
    write_json(options.docs / f"{NAME}.json", {"command": command, "trials": summaries})
    with written_beside(options.docs / f"{NAME}.md") as beside:
        beside.write_text(page(summaries, command, options.steps))
