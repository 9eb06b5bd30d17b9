"""Training of the UNets on cached latents and text states: min-SNR weights, dropped captions."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scenes.training import conditions, latents
from scenes.training.batches import rows_of_process
from scenes.training.conditions import Conditions
from scenes.training.fit import fit
from scenes.training.module import Training
from scenes.training.pipelines import pndm
from scenes.training.settings import Diffusion


def train(
    settings: Diffusion,
    pictures: Path,
    texts: Path,
    folder: Path,
    device: str,
    resume: bool,
    processes: int,
) -> None:
    """Train a UNet in `folder` on the latents in `pictures` and the conditions in `texts`."""
    side, width = latents.load(pictures).shape[-1], conditions.load(texts).states.shape[-1]
    torch.manual_seed(settings.fit.seed)
    unet = build(settings.unet, side, width)
    if device == "cpu":
        # Attention over few tokens: plain matrix products beat the fused kernel on a CPU.
        unet.set_attn_processor(AttnProcessor())
    draw = NoisyDraw(settings, pictures, texts)
    fit(DiffusionTraining(unet, settings.fit), draw, folder, device, resume, processes)


def build(arguments: dict[str, Any], sample_size: int, text_width: int) -> UNet2DConditionModel:
    """A UNet with fresh weights."""
    return UNet2DConditionModel(
        sample_size=sample_size, cross_attention_dim=text_width, **arguments
    )


class Noisy(NamedTuple):
    """Noisy latents and the UNet's target for them.

    Args:
        latents: [pictures, channels, h, w].
        timesteps: [pictures].
        conditions: further arguments of the UNet.
        target: target of the prediction, like latents.
        weight: weight of each picture's squared error, [pictures].
    """

    latents: Tensor
    timesteps: Tensor
    conditions: dict[str, Any]
    target: Tensor
    weight: Tensor


class NoisyDraw:
    """Draws latents, noise and timesteps; files are opened in the process that draws."""

    def __init__(self, settings: Diffusion, pictures: Path, texts: Path) -> None:
        self.settings, self.pictures, self.texts = settings, pictures, texts
        self.alphas = pndm().alphas_cumprod

    @cached_property
    def data(self) -> tuple[Tensor, Conditions]:
        """All latents, and all conditions."""
        return latents.load(self.pictures), conditions.load(self.texts)

    def __call__(self, generator: torch.Generator) -> Noisy:
        drawn, rows = self._draw(generator)
        noise = torch.randn(drawn.shape, generator=generator)
        timesteps = stratified_timesteps(len(drawn), len(self.alphas), generator)
        # Every process draws the whole batch and keeps its share, so their number changes nothing.
        mine = rows_of_process(len(drawn))
        drawn, rows, noise, timesteps = drawn[mine], rows[mine], noise[mine], timesteps[mine]
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * drawn + (1 - alpha).sqrt() * noise
        return Noisy(
            noisy, timesteps, self.data[1].of(rows), *target_of(drawn, noise, alpha, self.settings)
        )

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents, and the rows of their text states; for some these are the empty caption's."""
        data = self.data[0]
        n_captions, n_renders = data.shape[:2]
        size = (self.settings.fit.batch_size,)
        caption = torch.randint(n_captions, size, generator=generator)
        picture = torch.randint(n_renders, size, generator=generator)
        kept = torch.rand(size, generator=generator) >= self.settings.dropped_captions
        return data[caption, picture].float(), (caption + 1) * kept


class DiffusionTraining(Training[UNet2DConditionModel]):
    """The weighted squared error of a UNet's prediction."""

    def loss(self, batch: Noisy) -> tuple[Tensor, dict[str, float]]:
        """The loss for noisy latents, which is logged without weights."""
        with self.autocast():
            inputs = batch.latents, batch.timesteps
            output = self.network(*inputs, **batch.conditions, return_dict=False)[0]
        error = (output.float() - batch.target).square().mean((1, 2, 3))
        return (batch.weight * error).mean(), {"mse": error.detach().mean().item()}


def stratified_timesteps(n: int, n_timesteps: int, generator: torch.Generator) -> Tensor:
    """One uniform draw from each of `n` equal parts of the timesteps, shuffled, [n]."""
    position = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return (position * n_timesteps).long().clamp(max=n_timesteps - 1)


def target_of(
    drawn: Tensor, noise: Tensor, alpha: Tensor, settings: Diffusion
) -> tuple[Tensor, Tensor]:
    """The UNet's target, and the weight of each picture's squared error, [pictures].

    `alpha` is the cumulative product of the schedule, [pictures, 1, 1, 1].
    """
    if settings.prediction_type == "epsilon":
        return noise, torch.ones(len(noise))
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * drawn
    return velocity, velocity_weight(alpha.flatten(), settings.snr_clip)


def velocity_weight(alpha: Tensor, clip: float) -> Tensor:
    """min(SNR + 1, clip) / (SNR + 1): the weight of a squared error in velocity.

    As in min-SNR (Hang et al. 2023, section 3.4), it keeps the easy, nearly noiseless steps from
    dominating. But it leaves the weight of the noisiest steps at 1, where the caption matters.
    `alpha` is the cumulative product of the schedule, so that SNR + 1 = 1 / (1 - alpha).
    """
    return (clip * (1 - alpha)).clamp(max=1)
