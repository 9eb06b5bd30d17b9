"""Calibrated micro UNets of each kind, made once for all tests and saved beside."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.settings import (
    ActivationSettings,
    LayerSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from dgq.storage.checkpoint import GenerationSettings, Manifest, save_quantized
from dgq.targets import Target
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

TIMESTEPS = (801.0, 401.0, 1.0)
FAST = WeightSettings(4, "minmax")
FLOAT_SCORES = ScoreSettings(16)
EXPONENTS = ActivationSettings(8, "exponents", max_exponent=2)
AFFINE = ScoreSettings(8, "affine", "affine")

SETTINGS = {
    "kmeans": QuantizationSettings(FAST),
    "kmeans affine": QuantizationSettings(FAST, ActivationSettings(6, n_groups=3), AFFINE),
    "pixels": QuantizationSettings(FAST, ActivationSettings(8, n_groups=3), FLOAT_SCORES),
    "exponents": QuantizationSettings(
        WeightSettings(4, "minmax", group_size=16, max_exponent=1), EXPONENTS, FLOAT_SCORES
    ),
    "exponents scores": QuantizationSettings(FAST, EXPONENTS),
    "exponents a6": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=8, max_exponent=2),
        ActivationSettings(6, "exponents", max_exponent=4, qkv=False),
        FLOAT_SCORES,
    ),
    "multiples": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=32, max_exponent=1),
        ActivationSettings(6, "multiples", max_exponent=4),
        FLOAT_SCORES,
    ),
    "live": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=32, max_exponent=1),
        ActivationSettings(6, "live", max_exponent=4, qkv=False),
        FLOAT_SCORES,
    ),
    "residual": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=32, max_exponent=1),
        ActivationSettings(4, "residual", max_exponent=4, qkv=False),
        FLOAT_SCORES,
    ),
    "w8a8 symmetric": QuantizationSettings(
        WeightSettings(8, "minmax", symmetric=True),
        ActivationSettings(8, "exponents", max_exponent=0),
        FLOAT_SCORES,
    ),
    "absorbed": QuantizationSettings(
        WeightSettings(8, "minmax", symmetric=True, absorbs=True),
        ActivationSettings(8, "multiples", max_exponent=4, qkv=False),
        FLOAT_SCORES,
    ),
    "per-tensor": QuantizationSettings(
        FAST, ActivationSettings(8, n_groups=1, per_step=False), FLOAT_SCORES
    ),
    "split skips": QuantizationSettings(
        FAST, EXPONENTS, FLOAT_SCORES, split_skips=("conv1", "conv_shortcut")
    ),
    "w4a16": QuantizationSettings(FAST, ActivationSettings(16), FLOAT_SCORES),
    "a8 only": QuantizationSettings(WeightSettings(16), ActivationSettings(8), FLOAT_SCORES),
    "calibrated maxima": QuantizationSettings(
        FAST,
        ActivationSettings(8, n_groups=2),
        ScoreSettings(4, "log", "log", maximum="calibrated"),
    ),
    "mixed": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=16, max_exponent=2),
        ActivationSettings(8, "multiples", max_exponent=2, qkv=False),
        FLOAT_SCORES,
        layers={
            "mid_block.resnets.0.conv1": LayerSettings(
                WeightSettings(8, "minmax", symmetric=True),
                ActivationSettings(8, "multiples", max_exponent=0, qkv=False),
            ),
            "mid_block.resnets.0.conv2": LayerSettings(WeightSettings(3, "minmax")),
            "mid_block.attentions.0.transformer_blocks.0.attn1": LayerSettings(
                activations=ActivationSettings(5, "multiples", max_exponent=5, qkv=False)
            ),
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_k": LayerSettings(
                WeightSettings(6, "minmax", symmetric=True)
            ),
            "mid_block.attentions.0.proj_in": LayerSettings(WeightSettings(16)),
            "mid_block.attentions.0.proj_out": LayerSettings(
                activations=ActivationSettings(16, "multiples")
            ),
        },
    ),
    "nothing kept": QuantizationSettings(FAST, EXPONENTS, FLOAT_SCORES, keep=()),
    "kept projections": QuantizationSettings(
        FAST, EXPONENTS, FLOAT_SCORES, keep=("conv_in", "conv_out", "*.to_k")
    ),
}
INTEGER = (
    *("exponents", "exponents scores", "exponents a6", "multiples", "live", "residual"),
    *("w8a8 symmetric", "absorbed", "nothing kept", "kept projections", "split skips", "mixed"),
)
"""Whose layers, or most of them, multiply integers."""


@dataclass(frozen=True)
class Calibrated:
    """A calibrated UNet that tests may call and copy, but not change.

    Args:
        unet: under calibration.
        folder: that it is saved in.
        settings: of it.
        call: keyword arguments of a call.
        output: of that call.
    """

    unet: UNet2DConditionModel
    folder: Path
    settings: QuantizationSettings
    call: dict[str, Any]
    output: Tensor

    def at(self, timestep: float) -> dict[str, Any]:
        """The call at another timestep."""
        return self.call | {"timestep": torch.tensor(timestep)}


@torch.no_grad()
def calibrated(settings: QuantizationSettings, folder: Path) -> Calibrated:
    """A micro UNet with ranges of random calls and nearest rounding."""
    unet = micro_unet()
    save = description(unet, settings)
    calibrate_(unet, settings, TIMESTEPS)
    save_quantized(unet, folder, save)
    call = unet_call(unet, 2, 401.0, seed=9)
    return Calibrated(unet, folder, settings, call, unet(**call)[0])


def description(unet: UNet2DConditionModel, settings: QuantizationSettings) -> Manifest:
    """The manifest of a quantized UNet of 8x8 latents."""
    generation = GenerationSettings(3, 3.0, 16, 16)
    return Manifest("", dict(unet.config), settings, generation, TIMESTEPS, (8, 8))


def decibels(reference: Tensor, found: Tensor) -> float:
    """Signal-to-noise ratio of what should be ``reference``."""
    noise = (reference.double() - found.double()).square().sum().clamp(min=1e-300)
    return float(10 * torch.log10(reference.double().square().sum() / noise))


def layers_by_target(
    targets: Mapping[str, Target], layers: Mapping[str, nn.Module]
) -> dict[str, list[str]]:
    """Names of the layers that each target learns.

    Args:
        targets: by name.
        layers: all layers of the UNet that are quantized, by name.
    """
    names = {id(layer): name for name, layer in layers.items()}
    return {
        target: [names[id(part)] for part in found.parts() if id(part) in names]
        for target, found in targets.items()
    }
