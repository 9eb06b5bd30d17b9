"""Every number of the training, one dataclass for each stage, and the two sets in use."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fit:
    """How one network is fitted.

    Args:
        minutes: wall-clock budget; the learning rate follows the share of it that is spent.
        max_steps: stop after so many steps even if time is left.
        batch_size: pictures for each step and process.
        learning_rate: highest learning rate, reached after `warmup_steps`.
        warmup_steps: steps of linear increase; a cosine to zero follows.
        weight_decay: of AdamW, for matrices and convolutions only.
        ema_decay: of the running average of the weights; 0 keeps none.
        seed: of the initial weights and of everything drawn.
    """

    minutes: float
    batch_size: int
    learning_rate: float
    max_steps: int = 10_000_000
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Clip:
    """The CLIP model: both towers have `width`, `n_layers` and `n_heads`."""

    fit: Fit
    width: int = 128
    n_layers: int = 3
    n_heads: int = 4
    patch_size: int = 4
    projection_dim: int = 64
    n_captions: int = 60_000
    attribute_weight: float = 1.0


@dataclass(frozen=True)
class Autoencoder:
    """The AutoencoderKL; it shrinks pictures by 2 at every block but the last."""

    fit: Fit
    block_out_channels: tuple[int, ...] = (24, 48, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8
    kl_weight: float = 1e-4
    pca_steps: int = 200
    n_pictures: int = 20_000


@dataclass(frozen=True)
class Latents:
    """The training set of the UNet: captions, and `renders` pictures of each."""

    n_captions: int = 40_000
    renders: int = 2
    seed: int = 1


@dataclass(frozen=True)
class Diffusion:
    """The UNet2DConditionModel and its loss.

    Args:
        n_processes: data-parallel processes on a CPU, one thread each (a GPU uses one process).
        dropped_captions: share of captions replaced by the empty one, for guidance.
        snr_clip: errors count by min(SNR + 1, this) / (SNR + 1); see `velocity_weight`.
    """

    fit: Fit
    n_processes: int = 2
    block_out_channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 1
    n_heads: int = 8
    norm_num_groups: int = 16
    dropped_captions: float = 0.1
    snr_clip: float = 5.0


@dataclass(frozen=True)
class Settings:
    """All stages; `image_size` is the side of a picture in pixels."""

    clip: Clip
    autoencoder: Autoencoder
    diffusion: Diffusion
    latents: Latents = field(default_factory=Latents)
    image_size: int = 32


CPU = Settings(
    clip=Clip(Fit(minutes=7, batch_size=128, learning_rate=1e-3)),
    autoencoder=Autoencoder(Fit(minutes=9, batch_size=32, learning_rate=2e-3)),
    diffusion=Diffusion(
        Fit(minutes=36, batch_size=32, learning_rate=1e-3, warmup_steps=200, ema_decay=0.999)
    ),
)
"""Two CPU cores, about an hour in all: the model that is shipped."""

GPU = Settings(
    image_size=64,
    clip=Clip(Fit(minutes=4, batch_size=512, learning_rate=1e-3), patch_size=8),
    autoencoder=Autoencoder(
        Fit(minutes=6, batch_size=128, learning_rate=1e-3), block_out_channels=(64, 96, 128)
    ),
    latents=Latents(n_captions=100_000),
    diffusion=Diffusion(
        Fit(minutes=18, batch_size=256, learning_rate=6e-4, warmup_steps=500, ema_decay=0.9995),
        n_processes=1,
        block_out_channels=(64, 128, 192),
        layers_per_block=2,
    ),
)
"""One data-centre GPU, about half an hour in all: pictures of 64 pixels."""
