"""What is measured of a trial: likeness to Stable Diffusion, drawing, and damage by 6 bits."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

import scenes
from benchmarks.likeness.figures import rounded
from benchmarks.likeness.measure import Drawing, measure
from benchmarks.trials.training import UNET
from data.embedded import SCENES_GENERATION
from dgq import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.calibration.recording import record_calls
from dgq.calibration.unet_calls import UNetCalls
from dgq.math.reconstruction import sqnr_db
from dgq.unet.context import quantization
from dgq.unet.quantize import fit_activations_, quantize_, start_observing_
from scenes.training.export import read_unet
from scenes.training.measure import generate, shares
from scenes.training.pipelines import pndm, stable_diffusion
from scenes.training.settings import Settings

N_BITS = 6
GROUPS = (1, 8)
PAIRS = 32
"""Of call and prompt, at once; guidance makes two rows of each."""


@dataclass(frozen=True)
class Effort:
    """How much is drawn to measure a trial.

    Args:
        images: scored by the oracle.
        prompts: whose likeness is measured, and whose ranges are observed for 6 bits.
        held_out: further prompts, whose UNet outputs at 6 bits are compared.
    """

    images: int
    prompts: int
    held_out: int

    def captions(self) -> list[str]:
        """Held-out captions, as many as are needed."""
        return scenes.sample_captions(max(self.images, self.prompts + self.held_out), 0, "test")


def measure_trial(settings: Settings, work: Path, effort: Effort) -> dict[str, Any]:
    """All figures of a trained trial, as JSON."""
    captions, pipeline = effort.captions(), load(settings, work)
    observed, held_out = captions[: effort.prompts], captions[-effort.held_out :]
    asked = captions[: effort.images]
    images = generate(
        pipeline,
        asked,
        scenes.GUIDANCE_SCALE,
        scenes.NUM_INFERENCE_STEPS,
        seed=0,
        show_progress=False,
    )
    damage = activation_damage(pipeline, observed, held_out)
    drawing = Drawing(SCENES_GENERATION, batch_size=effort.prompts)
    # Last, since it leaves no stock UNet behind.
    likeness = measure(pipeline, observed, drawing, on_call=lambda: None)
    return {
        "parameters": sum(p.numel() for p in pipeline.unet.parameters()),
        "drawing": rounded(shares(scenes.score(images, asked))),
        "likeness": likeness.figures.as_json(),
        "sqnr_db": rounded(damage),
    }


def load(settings: Settings, work: Path) -> DiffusionPipeline:
    """A trial's pipeline, in float32 and quiet."""
    unet = read_unet(settings, settings.diffusion.unet, work / UNET, text_encoders=1)
    pipeline = stable_diffusion(work, unet, pndm(settings.diffusion.prediction_type))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def activation_damage(
    pipeline: DiffusionPipeline, observed: Sequence[str], held_out: Sequence[str]
) -> dict[str, float]:
    """SQNR of the UNet's outputs for held-out captions with activations at 6 bits, by groups.

    Weights and attention scores stay in floating point; ranges are those of the observed captions.
    """
    seen, new = (
        record_calls(pipeline, list(part), SCENES_GENERATION, seed, len(part))
        for seed, part in ((0, observed), (len(observed), held_out))
    )
    reference = outputs(pipeline.unet, new)
    return {
        str(n): float(sqnr_db(outputs(quantized(pipeline.unet, seen, n), new), reference))
        for n in GROUPS
    }


def quantized(stock: UNet2DConditionModel, calls: UNetCalls, n_groups: int) -> UNet2DConditionModel:
    """A copy of a UNet with activations at 6 bits, ranges from the calls."""
    unet = deepcopy(stock)
    bits = QuantizationSettings(
        WeightSettings(16), ActivationSettings(N_BITS, n_groups=n_groups), ScoreSettings(16)
    )
    quantize_(unet, bits, calls.distinct_timesteps, calls.latent_size)
    start_observing_(unet)
    with quantization(unet, weights=False, activations=False, observing=True):
        outputs(unet, calls)
    fit_activations_(unet)
    return unet


def outputs(unet: UNet2DConditionModel, calls: UNetCalls) -> Tensor:
    """The UNet's outputs for all calls, ``[rows, channels, height, width]``."""
    pairs = calls.sample_pairs(None, seed=0)
    return torch.cat([unet(**calls.batch(part))[0] for part in pairs.split(PAIRS)])
