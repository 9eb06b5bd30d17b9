"""A UNet with Stable Diffusion 1.4's structure and its obstacles to quantization, from a seed.

It has 8.6 million random parameters, channels 32/64/128/128, and 78 targets. Weights follow
Student's t-distribution, with heavier tails than normal; a few channels stand out in the gains of
norms and in GEGLU units, as does the ``<start>`` token in the text context. It draws nothing, but
its cost and errors resemble those of a trained UNet.
"""

import math

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from dgq.calibration.unet_calls import UNetCalls

CHANNELS = (32, 64, 128, 128)
TEXT_WIDTH = 64
N_TOKENS = 77
TIMESTEPS = (961, 641, 321, 1)
DEGREES_OF_FREEDOM = 8
OUTLIER_SHARE = 0.04
NORM_GAIN = 4.0
GEGLU_GAIN = 3.0
START_TOKEN_GAIN = 6.0
SEED = 0


def build_unet() -> UNet2DConditionModel:
    """The UNet, in evaluation mode, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=CHANNELS,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
        )
    generator = torch.Generator().manual_seed(SEED)
    for module in unet.modules():
        add_outliers_(module, generator)
    return unet.eval()


@torch.no_grad()
def add_outliers_(module: nn.Module, generator: torch.Generator) -> None:
    """Give one module's own parameters heavy tails or outlier channels."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        module.weight.copy_(student_t(module.weight.shape, generator) * module.weight.std())
    elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
        module.weight[outliers(module.weight.shape[0], generator)] *= NORM_GAIN
    elif isinstance(module, GEGLU):
        module.proj.weight[outliers(module.proj.weight.shape[0], generator)] *= GEGLU_GAIN


def student_t(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Student-t numbers of unit variance."""
    normal = torch.randn(shape, generator=generator)
    chi2 = sum(torch.randn(shape, generator=generator).square() for _ in range(DEGREES_OF_FREEDOM))
    unit_variance = math.sqrt(DEGREES_OF_FREEDOM - 2)
    return normal * torch.rsqrt(torch.as_tensor(chi2)) * unit_variance


def outliers(n_channels: int, generator: torch.Generator) -> Tensor:
    """Indices of the channels that stand out."""
    n_outliers = max(1, round(n_channels * OUTLIER_SHARE))
    return torch.randperm(n_channels, generator=generator)[:n_outliers]


def build_calls(n_prompts: int, latent_size: int = 16) -> UNetCalls:
    """UNet calls of 4 steps for each prompt, without guidance: noise on smooth random pictures."""
    generator = torch.Generator().manual_seed(SEED)
    coarse = torch.randn(n_prompts, 4, 4, 4, generator=generator)
    pictures = nn.functional.interpolate(coarse, (latent_size, latent_size), mode="bicubic")
    shares = torch.tensor([0.98, 0.8, 0.5, 0.15]).view(-1, 1, 1, 1, 1)
    noise = torch.randn(len(TIMESTEPS), *pictures.shape, generator=generator)
    text = torch.randn(n_prompts, 1, N_TOKENS, TEXT_WIDTH, generator=generator)
    text[:, :, 0] = START_TOKEN_GAIN * torch.randn(TEXT_WIDTH, generator=generator)
    return UNetCalls(
        latents=shares * noise + (1 - shares.square()).sqrt() * pictures,
        timesteps=torch.tensor(TIMESTEPS),
        conditioning={"encoder_hidden_states": text},
    )
