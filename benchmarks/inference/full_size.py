"""A UNet of Stable Diffusion 1.4's size with random weights: only its speed is meaningful."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from benchmarks.inference.parts import Part
from benchmarks.inference.request import Options
from benchmarks.inference.subjects import Call, Subject
from benchmarks.unet_configs import SD14, SDXL_TURBO, TINY
from dgq.calibration.learning import harden_, start_learning_
from dgq.recipes.ours import Ours
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import GenerationSettings, Manifest, save_quantized
from dgq.targets import Block
from dgq.unet.call_rows import to_device
from dgq.unet.context import quantization
from dgq.unet.quantize import fit_activations_, quantize_, start_observing_


def arithmetic(activation_bits: int) -> QuantizationSettings:
    """That of ``w4a8.yaml``, all layers alike, rounded to nearest, which costs the same time."""
    return Ours(4, activation_bits, range_method="minmax").quantization


SETTINGS = arithmetic(8)
"""Usual settings of a model with random weights."""

FINEST = 2
"""Range of the groups of weights, in powers of two below the largest: real groups differ too."""

N_TOKENS = 77
TIMESTEPS = tuple(float(t) for t in range(961, 0, -40))
OBSERVED_SIZE = 16
"""Ranges are observed on small latents, since they do not affect the speed."""


class FullSize(Subject):
    """Random weights, the same in each process."""

    name = "sd14"
    title = "SD 1.4's size, random weights, 64x64 latents"
    default_batches = (2, 1)
    config = SD14

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.title = f"{self.title}, {options.activation_bits}-bit activations"

    @property
    def folder(self) -> Path:
        """The cache folder."""
        return Path(self.options.cache) / self.name

    def stock(self) -> UNet2DConditionModel:
        """The UNet in float32, made on the device: making random weights takes longer on a CPU."""
        torch.manual_seed(0)
        with torch.device(self.options.device):
            unet = UNet2DConditionModel(**self.config).requires_grad_(False).eval()
        for layer in unet.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.mul_(group_sizes(layer.weight))
        return unet

    def identity(self) -> dict[str, Any]:
        """What determines the weights."""
        device = self.options.device
        versions = {"torch": torch.__version__, "device": device, "finest": FINEST}
        return {"config": self.config} | versions

    def call(self, batch: int) -> Call:
        """Random latents and tokens."""
        return self._random_call(batch, self.config["sample_size"], torch.tensor(TIMESTEPS[12]))

    @property
    def settings(self) -> QuantizationSettings:
        """Of the quantized model."""
        return arithmetic(self.options.activation_bits)

    def ckpts(self) -> Sequence[str]:
        """The single quantized model, which is made here."""
        return (f"w4a{self.options.activation_bits}",)

    def quantized(self, ckpt: str) -> Path:
        """Its folder in the cache."""
        return self.folder / ckpt

    def own_part(self, name: str) -> Part | None:
        """The quantized model."""
        if name != "quantized":
            return None
        quantization = {"quantization": asdict(self.settings), "timesteps": TIMESTEPS}
        return Part(self.quantized(*self.ckpts()), self.identity() | quantization, self._quantize)

    def calibration(self) -> Sequence[Call]:
        """A single call."""
        return [self.call(2)]

    def _quantize(self, folder: Path) -> None:
        """Quantize with ranges from one call with a row for each step, and nearest rounding."""
        unet = self.stock()
        config, size = dict(unet.config), self.config["sample_size"]
        quantize_(unet, self.settings, TIMESTEPS, (size, size))
        start_observing_(unet)
        with quantization(unet, weights=False, activations=False, observing=True):
            call = self._random_call(len(TIMESTEPS), OBSERVED_SIZE, torch.tensor(TIMESTEPS))
            unet(**to_device(call, self.options.device))
        fit_activations_(unet)
        start_learning_(Block(unet))
        harden_(Block(unet))
        unet.to("cpu")
        generation = GenerationSettings(len(TIMESTEPS))
        manifest = Manifest("random", config, self.settings, generation, TIMESTEPS, (size, size))
        save_quantized(unet, folder, manifest)

    def _random_call(self, batch: int, size: int, timestep: torch.Tensor) -> Call:
        generator = torch.Generator().manual_seed(0)
        width = self.config["cross_attention_dim"]
        return {
            "sample": torch.randn(batch, 4, size, size, generator=generator),
            "timestep": timestep,
            "encoder_hidden_states": torch.randn(batch, N_TOKENS, width, generator=generator),
            "return_dict": False,
        }


def group_sizes(weight: Tensor) -> Tensor:
    """A random power of two for each group of weights, expanded to the weight's shape."""
    fan_in, group_size = weight[0].numel(), SETTINGS.weights.group_size
    shape = (weight.shape[0], -(-fan_in // group_size))
    sizes = 2.0 ** -torch.randint(0, FINEST + 1, shape, device=weight.device)
    return sizes.repeat_interleave(group_size, 1)[:, :fan_in].reshape(weight.shape)


class FullSizeXL(FullSize):
    """SDXL's structure and size."""

    name = "sdxl"
    title = "SDXL's size, random weights, 128x128 latents"
    config = {**SDXL_TURBO, "sample_size": 128}  # noqa: RUF012

    def _random_call(self, batch: int, size: int, timestep: torch.Tensor) -> Call:
        generator = torch.Generator().manual_seed(1)
        width = self.config["projection_class_embeddings_input_dim"]
        width -= 6 * self.config["addition_time_embed_dim"]
        added = {
            "text_embeds": torch.randn(batch, width, generator=generator),
            "time_ids": torch.tensor([[8.0 * size, 8.0 * size, 0, 0, 8.0 * size, 8.0 * size]])
            .expand(batch, -1)
            .contiguous(),
        }
        return super()._random_call(batch, size, timestep) | {"added_cond_kwargs": added}


class Tiny(FullSize):
    """A small UNet for rehearsals."""

    name = "tiny"
    title = "SD 1.4's structure with a thousandth of the weights, 16x16 latents"
    default_batches = (1, 2)
    config = TINY
