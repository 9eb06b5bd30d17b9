"""Which training settings make the embedded model resemble Stable Diffusion more closely.

    python -m scenes.studies.trials --steps 600

Trains a UNet from scratch for each trial on the pictures and text states of the shipped model,
measures how closely it resembles Stable Diffusion and how well it draws, and prints a line for
each. Finished trials stay in the output folder: the same command resumes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

import scenes
from dgq.command_line.ending import exit_code
from dgq.errors import SettingsError
from dgq.storage.files import write_json
from dgq.storage.manifest import GenerationSettings
from scenes.studies.activation_damage import GROUPS, N_BITS, activation_damage
from scenes.studies.command import check_counts
from scenes.studies.likeness import measure
from scenes.studies.likeness_figures import TITLES, Likeness, cells
from scenes.studies.tables import table
from scenes.studies.trial_settings import TRIALS, shortened
from scenes.studies.trial_training import UNET, Place, prepare_shared, train
from scenes.training.export import read_unet
from scenes.training.measure import generate, shares
from scenes.training.pipelines import pndm, stable_diffusion
from scenes.training.settings import Settings

GENERATION = GenerationSettings(scenes.NUM_INFERENCE_STEPS, scenes.GUIDANCE_SCALE)
MEASURED = "measured.json"
EFFORT = ("images", "prompts", "held_out")
"""Options that set how much is measured."""


def main(argv: Sequence[str]) -> int:
    """Train, measure and print; the exit code."""
    options = make_parser().parse_args(argv)
    return exit_code(lambda: run(options))


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog="python -m scenes.studies.trials",
        description="Short trainings of the embedded UNet with few changes each: what makes it "
        "resemble Stable Diffusion more closely, and what that costs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="NAME", help="to run")
    add("--steps", type=int, default=600, help="training steps")
    add("--images", type=int, default=256, help="images that the oracle scores, for each trial")
    add("--prompts", type=int, default=16, help="prompts to measure the likeness on")
    add("--held-out", type=int, default=8, help="prompts compared with activations at 6 bits")
    add("--processes", type=int, default=2, help="processes that train a UNet together")
    add("--outputs", type=Path, default=Path("outputs/trials"), help="folder for trainings")
    return parser


def run(options: argparse.Namespace) -> None:
    """Run the requested trials, then print the table."""
    check_counts(options, "steps", "processes", *EFFORT)
    place = Place(options.outputs, options.steps, options.processes)
    check_processes(options.processes)
    known = {name: finished(name, place, options) for name in options.trials}
    prepare_shared(shortened(options.steps), place)
    for name in options.trials:
        if known[name] is None:
            print(f"{name}: {TRIALS[name].title}", flush=True)
            known[name] = run_trial(name, place, options)
    header = ["trial", *TITLES, *(f"A{N_BITS}, {n} groups, dB" for n in GROUPS)]
    rows = [row(name, figures) for name, figures in known.items() if figures is not None]
    print(table([*header, "oracle mean", "oracle all"], rows))


def check_processes(n: int) -> None:
    """Raise SettingsError unless `n` processes can share every trial's batches equally."""
    sizes = {trial.change(shortened(1)).diffusion.fit.batch_size for trial in TRIALS.values()}
    if any(size % n for size in sizes):
        raise SettingsError(f"--processes {n} cannot share batches of {sizes} equally")


def finished(name: str, place: Place, options: argparse.Namespace) -> dict[str, Any] | None:
    """The figures of a trial, if it is finished.

    Raises:
        SettingsError: if they are of other settings, or measured with another effort.
    """
    path = place.work(name) / MEASURED
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    if found["identity"] != identity(name, place, options):
        raise SettingsError(
            f"{path} is of other settings or another effort than asked for now: remove its "
            "folder, ask alike, or choose another one with --outputs"
        )
    return found


def identity(name: str, place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """What determines a trial's figures, in the form in which JSON gives it back."""
    settings = asdict(TRIALS[name].change(shortened(place.steps)))
    used = {part: settings[part] for part in ("clip", "autoencoder", "latents", "diffusion")}
    effort = {option: getattr(options, option) for option in EFFORT}
    content: dict[str, Any] = json.loads(json.dumps({"effort": effort, "settings": used}))
    return content


def run_trial(name: str, place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure a trial; returns its figures."""
    trial = TRIALS[name]
    settings = trial.change(shortened(place.steps))
    work = train(name, trial, settings, place)
    figures = measure_trial(load(settings, work), options)
    content = {"identity": identity(name, place, options), **figures}
    write_json(place.work(name) / MEASURED, content)
    return content


def load(settings: Settings, work: Path) -> DiffusionPipeline:
    """A trial's pipeline, in float32 and without progress bars."""
    unet = read_unet(settings, settings.diffusion.unet, work / UNET, text_encoders=1)
    pipeline = stable_diffusion(work, unet, pndm(settings.diffusion.prediction_type))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def measure_trial(pipeline: DiffusionPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a trained UNet, as JSON."""
    n = max(options.images, options.prompts + options.held_out)
    captions = scenes.sample_captions(n, 0, "test")
    observed, held_out = captions[: options.prompts], captions[-options.held_out :]
    asked = captions[: options.images]
    images = generate(pipeline, asked, scenes.GUIDANCE_SCALE, scenes.NUM_INFERENCE_STEPS, seed=0)
    damage = activation_damage(pipeline, observed, held_out, GENERATION)
    # Last, since the UNet is no longer a stock one afterwards.
    likeness = measure(pipeline, observed, GENERATION, batch_size=options.prompts)
    drawing = shares(scenes.score(images, asked))
    return {"likeness": asdict(likeness), "sqnr_db": damage, "drawing": drawing}


def row(name: str, figures: dict[str, Any]) -> list[str]:
    """A row of the table."""
    drawing = figures["drawing"]
    return [
        f"`{name}`",
        *cells(Likeness(**figures["likeness"])),
        *(f"{value:.1f}" for value in figures["sqnr_db"]),
        *(f"{drawing[part]['share']:.3f}" for part in ("mean", "all")),
    ]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
