"""The UNets: trained on cached latents and text states, with min-SNR weights, captions dropped."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from scenes.training import conditions, latents
from scenes.training.conditions import Conditions
from scenes.training.loop import autocast, fit
from scenes.training.pipelines import pndm
from scenes.training.processes import rows_of_process
from scenes.training.settings import Diffusion


def train(
    settings: Diffusion, pictures: Path, texts: Path, folder: Path, device: str, resume: bool
) -> None:
    """Train a UNet in `folder` on the latents in `pictures` and the conditions in `texts`."""
    data, known = latents.load(pictures), conditions.load(texts)
    torch.manual_seed(settings.fit.seed)
    unet = build(settings.unet, data.shape[-1], known.states.shape[-1]).to(device)
    if device == "cpu":
        # Attention over few tokens: plain matrix products beat the fused kernel on a CPU.
        unet.set_attn_processor(AttnProcessor())
    fit(unet, Objective(unet, data, known, settings), settings.fit, folder, resume)


def build(arguments: dict[str, Any], sample_size: int, text_width: int) -> UNet2DConditionModel:
    """A UNet with fresh weights."""
    return UNet2DConditionModel(
        sample_size=sample_size, cross_attention_dim=text_width, **arguments
    )


class Objective:
    """The loss of a batch drawn from a set of latents."""

    def __init__(
        self, unet: UNet2DConditionModel, data: Tensor, known: Conditions, settings: Diffusion
    ) -> None:
        self.unet, self.data, self.known, self.settings = unet, data, known, settings
        self.alphas = pndm().alphas_cumprod

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        drawn, rows = self._draw(generator)
        noise = torch.randn(drawn.shape, generator=generator)
        timesteps = stratified_timesteps(len(drawn), len(self.alphas), generator)
        # Every process draws the whole batch and keeps its share: their number changes nothing.
        mine = rows_of_process(len(drawn))
        drawn, rows, noise, timesteps = drawn[mine], rows[mine], noise[mine], timesteps[mine]
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * drawn + (1 - alpha).sqrt() * noise
        target, weight = target_of(drawn, noise, alpha, self.settings)
        error = (self._predict(noisy, timesteps, rows) - target.to(self.unet.device)).square()
        error = error.mean((1, 2, 3))
        loss = (weight.to(error.device) * error).mean()
        return loss, {"mse": error.detach().mean().item()}

    def _predict(self, noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        device = self.unet.device
        arguments = self.known.of(rows, device)
        with autocast(device):
            output = self.unet(
                noisy.to(device), timesteps.to(device), **arguments, return_dict=False
            )[0]
        return output.float()

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents, and the rows of their text states; some rows are the empty caption's."""
        n_captions, n_renders = self.data.shape[:2]
        size = (self.settings.fit.batch_size,)
        caption = torch.randint(n_captions, size, generator=generator)
        picture = torch.randint(n_renders, size, generator=generator)
        kept = torch.rand(size, generator=generator) >= self.settings.dropped_captions
        return self.data[caption, picture].float(), (caption + 1) * kept


def stratified_timesteps(n: int, n_timesteps: int, generator: torch.Generator) -> Tensor:
    """One uniform draw from each of `n` equal parts of the timesteps, shuffled, [n]."""
    position = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    return (position * n_timesteps).long().clamp(max=n_timesteps - 1)


def target_of(
    drawn: Tensor, noise: Tensor, alpha: Tensor, settings: Diffusion
) -> tuple[Tensor, Tensor]:
    """What the UNet is to predict, and the weight of each picture's squared error, [pictures].

    `alpha` is the cumulative product of the schedule, [pictures, 1, 1, 1].
    """
    if settings.prediction_type == "epsilon":
        return noise, torch.ones(len(noise))
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * drawn
    return velocity, velocity_weight(alpha.flatten(), settings.snr_clip)


def velocity_weight(alpha: Tensor, clip: float) -> Tensor:
    """min(SNR + 1, clip) / (SNR + 1): the weight of a squared error in velocity.

    As min-SNR (Hang et al. 2023, section 3.4) it keeps the easy, nearly noiseless steps from
    dominating, but it leaves the weight of the noisiest ones at 1: there the caption is heeded.
    `alpha` is the cumulative product of the schedule, so that SNR + 1 = 1 / (1 - alpha).
    """
    return (clip * (1 - alpha)).clamp(max=1)
