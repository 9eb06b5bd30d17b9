"""Draw prompts in full precision and measure what passes through the UNet meanwhile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from benchmarks.likeness.figures import Figures, block_figures, layer_figures, score_figures
from benchmarks.likeness.kinds import layer_name
from benchmarks.likeness.ranges import widths
from benchmarks.likeness.scores import ScoreTally, measure_
from dgq import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.calibration.recording import generators
from dgq.errors import DGQError
from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.storage.checkpoint import GenerationSettings
from dgq.unet.attention import QuantizedAttention
from dgq.unet.context import quantization
from dgq.unet.quantize import activation_quantizers, fit_activations_, quantize_, start_observing_

MEASURED = QuantizationSettings(
    WeightSettings(16), ActivationSettings(8, n_groups=1), ScoreSettings(16)
)
"""Ranges are observed wherever activations would be quantized; nothing is quantized."""


@dataclass(frozen=True)
class Drawing:
    """How prompts are drawn.

    Args:
        generation: steps, guidance and size.
        seed: of the first prompt's noise; the next prompt's is one larger.
        batch_size: prompts at a time.
    """

    generation: GenerationSettings
    seed: int = 0
    batch_size: int = 4


@dataclass(frozen=True)
class Measurement:
    """Figures, and what pictures are made of.

    Args:
        figures: everything in numbers.
        start_bins: histogram of the scores of the start token, ``[N_BINS]``.
        cross_bins: the same of the other cross-attention scores.
        self_bins: the same of the self-attention scores.
        channel_widths: ``[steps, channels]`` of each layer, by name.
    """

    figures: Figures
    start_bins: Tensor
    cross_bins: Tensor
    self_bins: Tensor
    channel_widths: dict[str, Tensor]


def measure(
    pipeline: DiffusionPipeline, prompts: Sequence[str], drawing: Drawing, on_call: Callable
) -> Measurement:
    """Measure a pipeline; its UNet is not stock any more afterwards, but computes the same.

    Args:
        pipeline: with a stock UNet.
        prompts: at least one.
        drawing: how they are drawn.
        on_call: called after each call of the UNet.
    """
    tallies = attach_(pipeline, drawing.generation)
    with quantization(pipeline.unet, weights=False, activations=False, observing=True):
        draw(pipeline, prompts, drawing, on_call)
    return collect(pipeline.unet, tallies)


@torch.no_grad()
def attach_(pipeline: DiffusionPipeline, generation: GenerationSettings) -> dict[str, ScoreTally]:
    """Let the UNet observe ranges and tally scores; returns the tallies by attention."""
    unet = pipeline.unet
    steps = tuple(dict.fromkeys(call_timesteps(pipeline, generation)))
    # Pixel groups are made for a latent size; nothing is grouped here, so any will do.
    quantize_(unet, MEASURED, steps, (unet.config.sample_size,) * 2)
    guided = generation.guidance_scale > 1 and unet.config.time_cond_proj_dim is None
    tallies = {}
    for name, attention in unet.named_modules():
        if isinstance(attention, QuantizedAttention):
            tallies[name] = measure_(attention, 2 if guided else 1)
    start_observing_(unet)
    return tallies


def call_timesteps(pipeline: DiffusionPipeline, generation: GenerationSettings) -> list[float]:
    """The timesteps of all calls of the UNet for one batch of prompts."""
    pipeline.scheduler.set_timesteps(generation.num_inference_steps)
    return [float(t) for t in pipeline.scheduler.timesteps.tolist()]


@torch.no_grad()
def draw(
    pipeline: DiffusionPipeline, prompts: Sequence[str], drawing: Drawing, on_call: Callable
) -> Tensor:
    """The prompts' latents, ``[prompts, channels, height, width]``."""
    hook = pipeline.unet.register_forward_hook(lambda *_: on_call())
    latents = []
    try:
        for first in range(0, len(prompts), drawing.batch_size):
            batch = list(prompts[first : first + drawing.batch_size])
            noise = generators(first, len(batch), drawing.seed)
            settings = vars(drawing.generation)
            drawn = pipeline(batch, **settings, generator=noise, output_type="latent")
            latents.append(drawn.images)
    except ValueError as error:
        raise DGQError(f"the pipeline refuses these settings: {error}") from error
    finally:
        hook.remove()
    return torch.cat(latents)


@torch.no_grad()
def collect(unet: UNet2DConditionModel, tallies: dict[str, ScoreTally]) -> Measurement:
    """Figures of what was measured; DGQ's own rule chooses the axes."""
    fit_activations_(unet)
    found = activation_quantizers(unet).items()
    quantizers = {layer_name(n): q for n, q in found if isinstance(q, ActivationQuantizer)}
    # By registration the middle block comes last; the alphabet happens to have it in the middle.
    cross = {name: tallies[name] for name in sorted(tallies, key=place) if tallies[name].is_cross}
    start_bins = total([tally.start_bins for tally in cross.values()])
    cross_bins = total([tally.bins for tally in cross.values()])
    self_bins = total([tally.bins for tally in tallies.values() if not tally.is_cross])
    figures = Figures(
        blocks=[block_figures(name, tally) for name, tally in cross.items()],
        scores={
            "cross-attention, start token": score_figures(start_bins),
            "cross-attention, other tokens": score_figures(cross_bins),
            "self-attention": score_figures(self_bins),
        },
        layers=[layer_figures(name, quantizer) for name, quantizer in quantizers.items()],
    )
    channel_widths = {
        name: widths(q.require_observer().channels).cpu()
        for name, q in quantizers.items()
        if q.require_observer().pixels is not None
    }
    return Measurement(figures, start_bins, cross_bins, self_bins, channel_widths)


def place(attention: str) -> str:
    """What attentions are sorted by: down, mid, up."""
    return attention.partition("_")[0]


def total(bins: Sequence[Tensor]) -> Tensor:
    """The sum of some histograms."""
    return torch.stack(list(bins)).sum(0).cpu()
