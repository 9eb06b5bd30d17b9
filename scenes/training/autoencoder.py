"""The autoencoder: first trained towards principal components of patches, then freely.

Trained from scratch, such a small autoencoder uses its channels unevenly. The principal
components of patches are a good linear code with unit variance, and so a good starting point.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from scenes.captions import sample_captions
from scenes.renderer import render
from scenes.training.fit import fit
from scenes.training.folders import replaced
from scenes.training.module import Training
from scenes.training.settings import Autoencoder

LATENT_CHANNELS = 4


def train(settings: Autoencoder, image_size: int, folder: Path, device: str, resume: bool) -> None:
    """Train the autoencoder, set its scaling factor and save it into `folder`/model."""
    if resume and (folder / "model").is_dir():
        return
    torch.manual_seed(settings.fit.seed)
    model = build(settings, image_size)
    captions = sample_captions(settings.n_pictures, settings.fit.seed, "train")
    pictures = to_model(_render_in_parts(captions, image_size))
    training = AutoencoderTraining(model, settings, pictures[:2000])
    fit(training, PictureDraw(pictures, settings.fit.batch_size), folder, device, resume)
    model.to(device).eval()
    # Pipelines divide by the factor before they decode: it gives latents unit variance.
    model.register_to_config(
        scaling_factor=1 / float(encode(model, pictures[:2000].to(device)).std())
    )
    with replaced(folder / "model") as new:
        model.save_pretrained(new)


class PictureDraw:
    """Draws pictures in [-1, 1], and a seed for the noise on their latents."""

    def __init__(self, pictures: Tensor, batch_size: int) -> None:
        self.pictures, self.batch_size = pictures, batch_size

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, torch.Generator]:
        chosen = torch.randint(len(self.pictures), (self.batch_size,), generator=generator)
        return self.pictures[chosen], generator


class AutoencoderTraining(Training[AutoencoderKL]):
    """The loss for pictures in [-1, 1].

    Args:
        model: the autoencoder.
        settings: settings of the stage.
        sample: pictures whose principal components the latents are first drawn towards.
    """

    components: Tensor
    mean: Tensor

    def __init__(self, model: AutoencoderKL, settings: Autoencoder, sample: Tensor) -> None:
        super().__init__(model, settings.fit)
        self.stage = settings
        self.patch = 2 ** (len(settings.block_out_channels) - 1)
        components, mean = principal_components(sample, self.patch)
        self.register_buffer("components", components, persistent=False)
        self.register_buffer("mean", mean, persistent=False)

    def loss(self, batch: tuple[Tensor, torch.Generator]) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction, KL divergence, and at first the distance to principal components."""
        pictures, generator = batch
        with self.autocast():
            posterior = self.network.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
            latents = posterior.mean + posterior.std * noise
            decoded = self.network.decode(latents).sample.float()
        error = decoded - pictures
        loss = error.square().mean() + 0.1 * error.abs().mean()
        loss = loss + self.stage.kl_weight * posterior.kl().mean() / latents[0].numel()
        if self.global_step < self.stage.pca_steps:
            target = F.conv2d(pictures - self.mean, self.components, stride=self.patch)
            loss = loss + 0.3 * (posterior.mean.float() - target).square().mean()
        psnr = -10 * (error.detach() / 2).square().mean().log10()
        return loss, {"psnr": psnr.item(), "latent_std": latents.detach().float().std().item()}


def build(settings: Autoencoder, image_size: int) -> AutoencoderKL:
    """An autoencoder with fresh weights."""
    n_blocks = len(settings.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * n_blocks,
        up_block_types=("UpDecoderBlock2D",) * n_blocks,
        block_out_channels=settings.block_out_channels,
        layers_per_block=settings.layers_per_block,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=settings.norm_num_groups,
        sample_size=image_size,
    )


def to_model(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] mapped to the autoencoder's range, [-1, 1]."""
    return pictures * 2 - 1


def principal_components(pictures: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Whitened principal components of square patches.

    Returns the strongest ones as a convolution, [LATENT_CHANNELS, 3, patch, patch], and the mean
    colour to subtract beforehand, [1, 3, 1, 1].
    """
    mean = pictures.mean((0, 2, 3), keepdim=True)
    patches = F.unfold(pictures - mean, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    strongest = vectors[:, -LATENT_CHANNELS:] / values[-LATENT_CHANNELS:].sqrt()
    return strongest.T.reshape(LATENT_CHANNELS, 3, patch, patch), mean


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: Tensor, batch_size: int = 50) -> Tensor:
    """Means of the latents of pictures in [-1, 1], unscaled, [pictures, channels, h, w]."""
    with torch.autocast(pictures.device.type, torch.bfloat16):
        parts = [model.encode(part).latent_dist.mean for part in pictures.split(batch_size)]
    return torch.cat(parts).float()


@torch.no_grad()
def reconstruct(model: AutoencoderKL, pictures: Tensor, batch_size: int = 50) -> Tensor:
    """Encode and decode pictures in [0, 1]."""
    latents = encode(model, to_model(pictures), batch_size)
    parts = [model.decode(part).sample for part in latents.split(batch_size)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def _render_in_parts(captions: Sequence[str], size: int) -> Tensor:
    parts = [captions[i : i + 2000] for i in range(0, len(captions), 2000)]
    return torch.cat([render(part, size, seed) for seed, part in enumerate(parts)])
