"""Effect of activations at few bits on a UNet's output, with and without groups."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from dgq import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.calibration.recording import record_calls
from dgq.calibration.unet_calls import UNetCalls
from dgq.math.reconstruction import sqnr_db
from dgq.storage.manifest import GenerationSettings
from dgq.unet.context import quantization
from dgq.unet.quantize import fit_activations_, quantize_, start_observing_

N_BITS = 6
GROUPS = (1, 8)
PAIRS = 32
"""Pairs of call and prompt at a time; with guidance each pair is two rows."""


@torch.no_grad()
def activation_damage(
    pipeline: DiffusionPipeline,
    observed: Sequence[str],
    held_out: Sequence[str],
    generation: GenerationSettings,
) -> list[float]:
    """SQNR in dB of the UNet's outputs with activations at 6 bits, one for each of `GROUPS`.

    Ranges come from the observed captions, outputs from the held-out ones. Weights and attention
    scores stay in floating point.
    """
    seen, new = (
        record_calls(pipeline, list(part), generation, seed, len(part), progress=False)
        for seed, part in ((0, observed), (len(observed), held_out))
    )
    reference = outputs(pipeline.unet, new)
    return [
        float(sqnr_db(outputs(quantized(pipeline.unet, seen, n), new), reference)) for n in GROUPS
    ]


def quantized(stock: UNet2DConditionModel, calls: UNetCalls, n_groups: int) -> UNet2DConditionModel:
    """A copy of a UNet with activations at 6 bits; the calls give the ranges."""
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
