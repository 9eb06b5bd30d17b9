"""How similar a pipeline is to Stable Diffusion in what makes that hard to quantize.

    python -m scenes.studies.likeness --weights outputs/scenes/diffusion/step-*.safetensors pipeline

Generates from prompts in full precision and prints a line for each set of UNet weights: mass on the
start token, sharpness of attention, outliers among channels and tokens, change over sampler steps.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from rich.progress import track

import scenes
from dgq import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.calibration.recording import generators
from dgq.captions.reading import read_captions
from dgq.command_line.ending import exit_code
from dgq.errors import DGQError, SettingsError
from dgq.pipelines.loading import load_pipeline
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.storage.manifest import GenerationSettings
from dgq.unet.attention import QuantizedAttention
from dgq.unet.context import quantization
from dgq.unet.quantize import activation_quantizers, fit_activations_, quantize_, start_observing_
from scenes.studies.attention_scores import ScoreTally, measure_
from scenes.studies.command import check_counts
from scenes.studies.likeness_figures import TITLES, Likeness, cells, summary
from scenes.studies.tables import table
from scenes.studies.unet_weights import load_weights_

OWN = "pipeline"
"""Value of `--weights` that stands for the pipeline's own."""

OBSERVED = QuantizationSettings(
    WeightSettings(16), ActivationSettings(8, n_groups=1), ScoreSettings(16)
)
"""Ranges are observed wherever activations would be quantized; nothing is quantized."""


def main(argv: Sequence[str]) -> int:
    """Measure and print; the exit code."""
    options = make_parser().parse_args(argv)
    return exit_code(lambda: run(options))


def make_parser() -> argparse.ArgumentParser:
    """All options."""
    parser = argparse.ArgumentParser(
        prog="python -m scenes.studies.likeness",
        description="How closely a pipeline resembles Stable Diffusion, for each set of weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--pipeline", default="scenes", help="an embedded model, a folder, or an id on the hub")
    add(
        "--weights",
        nargs="+",
        default=[OWN],
        metavar="FILE",
        help=f"safetensors of the UNet, in any precision; '{OWN}' stands for the pipeline's own",
    )
    add("--prompts", type=int, default=16, metavar="N", help="number of prompts")
    add("--prompts-file", type=Path, metavar="FILE", help="file of prompts; else scene captions")
    add("--steps", type=int, default=scenes.NUM_INFERENCE_STEPS, help="sampler steps")
    add("--guidance", type=float, default=scenes.GUIDANCE_SCALE, help="scale; at most 1: none")
    add("--batch-size", type=int, default=16, help="prompts at a time")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    return parser


def run(options: argparse.Namespace) -> None:
    """Measure all weights and print the table."""
    check_counts(options, "prompts", "batch_size")
    generation = GenerationSettings(options.steps, options.guidance)
    prompts, rows = choose_prompts(options), []
    pipeline = load_pipeline(options.pipeline)
    for weights in options.weights:
        # Check all files before the first measurement, which may take hours.
        if weights != OWN:
            load_weights_(pipeline.unet, Path(weights))
    for weights in options.weights:
        pipeline = load_pipeline(options.pipeline)  # measuring leaves no stock UNet behind
        if weights != OWN:
            load_weights_(pipeline.unet, Path(weights))
        pipeline = move(pipeline, options.device)
        found = measure(pipeline, prompts, generation, options.batch_size)
        rows.append([f"`{Path(weights).name}`", *cells(found)])
    print(table(["weights", *TITLES], rows))


def choose_prompts(options: argparse.Namespace) -> list[str]:
    """The requested number of prompts; raises SettingsError if there are fewer."""
    if options.prompts_file is None:
        return scenes.sample_captions(options.prompts, 0, "test")
    prompts = read_captions(options.prompts_file)
    if len(prompts) < options.prompts:
        raise SettingsError(
            f"{options.prompts_file} holds {len(prompts)} prompts, fewer than --prompts "
            f"{options.prompts}: lower it, or give more"
        )
    return prompts[: options.prompts]


def move(pipeline: DiffusionPipeline, device: str) -> DiffusionPipeline:
    """The pipeline on a device; raises SettingsError for one that torch does not have."""
    try:
        return pipeline.to(device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {device} cannot be used: {error}") from error


def measure(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    generation: GenerationSettings,
    batch_size: int,
) -> Likeness:
    """Measure a pipeline; afterwards its UNet is no longer stock, but computes the same.

    Args:
        pipeline: a pipeline with a stock UNet.
        prompts: at least one.
        generation: steps, guidance and size.
        batch_size: prompts at a time.
    """
    tallies = attach_(pipeline, generation)
    with quantization(pipeline.unet, weights=False, activations=False, observing=True):
        draw(pipeline, prompts, generation, batch_size)
    fit_activations_(pipeline.unet)
    found = activation_quantizers(pipeline.unet).items()
    return summary(
        {name: q for name, q in found if isinstance(q, ActivationQuantizer)},
        [tally for tally in tallies if tally.is_cross],
        [tally for tally in tallies if not tally.is_cross],
    )


@torch.no_grad()
def attach_(pipeline: DiffusionPipeline, generation: GenerationSettings) -> list[ScoreTally]:
    """Make the UNet observe ranges and tally scores; returns the tallies."""
    unet = pipeline.unet
    pipeline.scheduler.set_timesteps(generation.num_inference_steps)
    steps = tuple(dict.fromkeys(map(float, pipeline.scheduler.timesteps.tolist())))
    # The latent size matters for pixel groups only; nothing is grouped here, so any will do.
    quantize_(unet, OBSERVED, steps, (unet.config.sample_size,) * 2)
    guided = generation.guidance_scale > 1 and unet.config.time_cond_proj_dim is None
    attentions = [m for m in unet.modules() if isinstance(m, QuantizedAttention)]
    start_observing_(unet)
    return [measure_(attention, 2 if guided else 1) for attention in attentions]


@torch.no_grad()
def draw(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    generation: GenerationSettings,
    batch_size: int,
) -> torch.Tensor:
    """Generate the prompts' latents, ``[prompts, channels, height, width]``, each from its seed."""
    latents = []
    try:
        for first in track(range(0, len(prompts), batch_size), "drawing", transient=True):
            batch = list(prompts[first : first + batch_size])
            noise = generators(first, len(batch), seed=0)
            drawn = pipeline(batch, **vars(generation), generator=noise, output_type="latent")
            latents.append(drawn.images)
    except ValueError as error:
        raise DGQError(f"the pipeline refuses these settings: {error}") from error
    return torch.cat(latents)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
