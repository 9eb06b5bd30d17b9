"""Compute and draw the pictures of a run, and write them into its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from rich.progress import Progress
from torch import nn

from dgq.calibration.recording import record_calls
from dgq.command_line.console import phase
from dgq.errors import DGQError, SettingsError
from dgq.math.reconstruction import sqnr_db
from dgq.pipelines.loading import load_pipeline
from dgq.settings import check_positive
from dgq.storage.checkpoint import GenerationSettings, load_quantized_unet, read_manifest
from dgq.storage.files import check_writable, write_json
from dgq.unet.call_rows import Call
from dgq.unet.quantize import skip_readers
from dgq.unet.split_layer import split_
from evaluation.explanation import pictures
from evaluation.explanation.costs import Costs, compared_costs
from evaluation.explanation.ranges import chosen, observed_ranges, worst
from evaluation.explanation.scores import Scores, compared_scores, cross_attentions, telling
from evaluation.explanation.sensitivity import OneAtATime, sensitivity
from evaluation.explanation.style import write_picture

FOLDER = "explanation"
FIGURES = "figures.json"
SEED = 5678
MOST_TOKENS = 24


@dataclass(frozen=True)
class Request:
    """The options of an explanation.

    Args:
        run: folder of a finished run.
        prompts: prompts for the UNet calls.
        layers: layers whose ranges are shown; the worst ones by default.
        n_layers: how many of the worst.
        attention: attention whose scores are shown; by default one with attention on the words.
        steps: sampler steps, evenly spread, at which sensitivity is measured.
    """

    run: Path
    prompts: Sequence[str]
    layers: Sequence[str] = ()
    n_layers: int = 4
    attention: str | None = None
    steps: int = 4

    def __post_init__(self) -> None:
        check_positive("--n_layers", self.n_layers)
        check_positive("--steps", self.steps)
        if not all(prompt.strip() for prompt in self.prompts):
            raise SettingsError("--prompts: one is empty: leave it out")


@torch.no_grad()
def explain(request: Request) -> dict[str, Any]:
    """Write the pictures into the run's folder; returns the figures in them.

    Raises:
        DGQError: if the run is not finished, a layer does not exist, or nothing can be written.
    """
    manifest = read_manifest(request.run)
    ranges = observed_ranges(request.run)
    layers = chosen(ranges, request.layers) or worst(ranges, request.n_layers)
    folder = request.run / FOLDER
    check_writable(folder, "the folder of pictures")
    pipeline = load_pipeline(manifest.pipeline)
    split_(pipeline.unet, skip_readers(pipeline.unet, manifest.quantization))
    quantized = load_quantized_unet(request.run, "float")
    names = cross_attentions(pipeline.unet)
    if request.attention is not None and request.attention not in names:
        raise DGQError(
            f"{request.attention} is not a cross-attention: expected one of {', '.join(names)}"
        )
    with phase("recording calls"):
        calls = some_calls(pipeline, manifest.generation, request)
    one = calls[len(calls) // 2]
    figures: dict[str, Any] = {"ranges": [layer.to_dict() for layer in layers]}
    write_picture(pictures.ranges_picture(layers), folder / "ranges.png")
    if names:
        name = request.attention or telling(pipeline.unet, one)
        scores = compared_scores(pipeline.unet, quantized, one, name)
        tokens = tokens_of(pipeline.tokenizer, request.prompts[-1], scores)
        write_picture(pictures.scores_picture(scores, tokens), folder / "scores.png")
        figures["scores"] = scores.to_dict() | {"tokens": tokens}
    with phase("costs of layers"):
        costs = compared_costs(pipeline.unet, load_quantized_unet(request.run), one)
    write_picture(pictures.costs_picture(costs), folder / "costs.png")
    figures["costs"] = {name: cost.to_dict() for name, cost in costs.items()}
    figures["sensitivity"] = measured_sensitivity(pipeline.unet, quantized, calls)
    seconds = seconds_of_parts(figures["sensitivity"]["parts"], costs)
    write_picture(
        pictures.sensitivity_picture(
            figures["sensitivity"]["sqnr_db"], figures["sensitivity"]["everything_db"], seconds
        ),
        folder / "sensitivity.png",
    )
    write_json(folder / FIGURES, figures)
    return figures


def some_calls(
    pipeline: DiffusionPipeline, generation: GenerationSettings, request: Request
) -> list[Call]:
    """Calls of the UNet at some steps, each with all prompts."""
    recorded = record_calls(pipeline, list(request.prompts), generation, SEED, len(request.prompts))
    n_calls, n_prompts = recorded.latents.shape[:2]
    steps = torch.linspace(0, n_calls - 1, min(request.steps, n_calls)).round().int().unique()
    prompts = torch.arange(n_prompts)
    return [
        recorded.batch(torch.stack([torch.full_like(prompts, int(step)), prompts], 1))
        for step in steps
    ]


def measured_sensitivity(
    stock: nn.Module, quantized: nn.Module, calls: Sequence[Call]
) -> dict[str, Any]:
    """SQNR with only one part quantized at a time, and with all of them."""
    references = [stock(**call)[0] for call in calls]
    outputs = [quantized(**call)[0] for call in calls]
    everything = float(sqnr_db(torch.cat(outputs), torch.cat(references)))
    parts = OneAtATime(quantized, stock)
    with Progress(transient=True) as progress:
        bar = progress.add_task("one part at a time", total=len(parts.parts))
        found = sensitivity(parts, calls, references, lambda: progress.advance(bar))
    layers = {part.name: list(part.layers) for part in parts.parts}
    return {"sqnr_db": found, "everything_db": everything, "parts": layers}


def seconds_of_parts(
    parts: Mapping[str, Sequence[str]], costs: Mapping[str, Costs]
) -> dict[str, float]:
    """Time of each part's layers in full precision."""
    return {
        name: sum(costs[layer].seconds_before for layer in layers if layer in costs)
        for name, layers in parts.items()
    }


def tokens_of(tokenizer: Any, prompt: str, scores: Scores) -> list[str]:
    """Texts of a prompt's tokens up to the end token."""
    ids = tokenizer(prompt).input_ids[: min(MOST_TOKENS, scores.before.shape[1])]
    texts = [text.replace("</w>", "") for text in tokenizer.convert_ids_to_tokens(ids)]
    return ["<start>", *texts[1:]]
