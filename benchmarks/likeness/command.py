"""The command line: what to measure, and where the answer goes."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import scenes
from benchmarks.likeness.figures import Figures
from benchmarks.likeness.measure import Drawing, Measurement, call_timesteps, measure
from benchmarks.likeness.pictures import write_pictures
from benchmarks.likeness.tables import report
from benchmarks.unet_weights import load_weights_
from dgq.captions.reading import read_captions
from dgq.errors import DGQError, SettingsError
from dgq.pipelines.loading import load_pipeline
from dgq.settings import check_positive
from dgq.storage.checkpoint import GenerationSettings
from dgq.storage.files import write_json, written_beside
from evaluation.progress import make_progress
from lit.console import print_error, quieten_libraries

ROOT = Path(__file__).parents[2]
OWN = "pipeline"
"""Among the weights: those that the pipeline came with."""


def main(argv: Sequence[str]) -> int:
    """Measure and write; returns the exit code: 0, or 2 after one line about bad input."""
    options = parser().parse_args(argv)
    options.command = shlex.join(["python", "benchmarks/likeness", *argv])
    quieten_libraries()
    try:
        run(options)
    except DGQError as error:
        print_error(error)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """All options."""
    result = argparse.ArgumentParser(
        prog="python benchmarks/likeness",
        description="Measure whether a pipeline behaves like Stable Diffusion in what makes that "
        "hard to quantize. Writes likeness.md, likeness.json and likeness/*.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = result.add_argument
    add("--pipeline", default="scenes", help="scenes (embedded), a folder, or an id on the hub")
    add(
        "--weights",
        nargs="+",
        default=[OWN],
        metavar="FILE",
        help=f"safetensors of the UNet to put into the pipeline, also in half precision; '{OWN}' "
        "stands for its own. Several make a table over training, in this order; tables and "
        "pictures describe the last",
    )
    add("--prompts", type=int, default=32, metavar="N", help="prompts to draw")
    add(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help="whose first N prompts are drawn, one a line; captions of scenes by default",
    )
    add("--steps", type=int, default=scenes.NUM_INFERENCE_STEPS, help="sampler steps")
    add(
        "--guidance",
        type=float,
        default=scenes.GUIDANCE_SCALE,
        help="classifier-free guidance; 1 or less switches it off",
    )
    add("--size", type=int, help="height and width in pixels; by default the model's own")
    add("--seed", type=int, default=0, help="of the noise, and of the captions of scenes")
    add("--batch-size", type=int, default=4, help="prompts drawn at once")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where it runs, as torch names it",
    )
    add(
        "--output",
        type=Path,
        default=ROOT / "docs/explanation/embedded-model",
        help="folder of the results",
    )
    return result


def run(options: argparse.Namespace) -> None:
    """Measure all weights, then write everything."""
    prompts = choose_prompts(options)
    check_positive("--batch-size", options.batch_size)
    generation = GenerationSettings(options.steps, options.guidance, options.size, options.size)
    drawing = Drawing(generation, options.seed, options.batch_size)
    check_device(options.device)
    pipeline = load_pipeline(options.pipeline)
    for weights in options.weights:
        # All of them before the first is measured, which may take hours.
        if weights != OWN:
            load_weights_(pipeline.unet, Path(weights))
    n_batches = -(-len(prompts) // options.batch_size)
    n_calls = n_batches * len(call_timesteps(pipeline, generation))
    measured: dict[str, Figures] = {}
    with make_progress(Console()) as progress:
        for weights in options.weights:
            task = progress.add_task(Path(weights).name, total=n_calls)
            last = measure_weights(
                options, weights, prompts, drawing, lambda task=task: progress.advance(task)
            )
            measured[weights] = last.figures
    write(options, drawing, measured, last)


def check_device(name: str) -> None:
    """Raise SettingsError for a device that torch does not know or have."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {name} cannot be used: {error}") from error


def choose_prompts(options: argparse.Namespace) -> list[str]:
    """As many prompts as asked for; raises DGQError if there are fewer."""
    n = options.prompts
    check_positive("--prompts", n)
    if options.prompts_file is None:
        return scenes.sample_captions(n, options.seed, "test")
    prompts = read_captions(options.prompts_file)
    if len(prompts) < n:
        raise SettingsError(
            f"{options.prompts_file} holds {len(prompts)} prompts, fewer than --prompts {n}: "
            "lower it, or give more"
        )
    return prompts[:n]


def measure_weights(
    options: argparse.Namespace,
    weights: str,
    prompts: Sequence[str],
    drawing: Drawing,
    on_call: Callable,
) -> Measurement:
    """Measure the pipeline with some weights; it is loaded anew, since measuring changes it."""
    pipeline = load_pipeline(options.pipeline)
    if weights != OWN:
        load_weights_(pipeline.unet, Path(weights))
    return measure(pipeline.to(options.device), prompts, drawing, on_call)


def write(
    options: argparse.Namespace,
    drawing: Drawing,
    measured: dict[str, Figures],
    last: Measurement,
) -> None:
    """Pictures, numbers, tables."""
    write_pictures(last, options.output / "likeness")
    content: dict[str, Any] = {
        "pipeline": options.pipeline,
        "prompts": options.prompts,
        "prompts_file": options.prompts_file and str(options.prompts_file),
        "seed": drawing.seed,
        "generation": vars(drawing.generation),
        "weights": {name: figures.as_json() for name, figures in measured.items()},
    }
    write_json(options.output / "likeness.json", content)
    with written_beside(options.output / "likeness.md") as beside:
        beside.write_text(report(heading(options, list(measured)[-1]), last.figures, measured))


def heading(options: argparse.Namespace, described: str) -> str:
    """What was measured, and how."""
    weights = "its own UNet weights" if described == OWN else f"the UNet weights `{described}`"
    prompts = "captions of scenes" if options.prompts_file is None else f"`{options.prompts_file}`"
    return (
        f"Pipeline `{options.pipeline}` with {weights}, in full precision: {options.prompts} "
        f"prompts ({prompts}), {options.steps} steps, guidance {options.guidance:g}, seed "
        f"{options.seed}. Written by `{options.command}`; whatever is known of Stable "
        "Diffusion stands beside the numbers, and cells without it are empty."
    )
