"""All settings of the training: one dataclass for each stage, and the two sets in use."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Fit:
    """How one network is fitted.

    Args:
        steps: number of batches trained on.
        batch_size: pictures in each step, over all processes.
        learning_rate: highest learning rate, reached after `warmup_steps`.
        warmup_steps: steps of linear increase; a cosine to zero follows.
        weight_decay: AdamW's weight decay of matrices and convolutions.
        decays_norms: whether norms and biases decay too.
        beta2: AdamW's decay of the running average of squared gradients.
        ema_decay: decay of the running average of the weights; 0 keeps none.
        seed: seed of the initial weights and of everything drawn.
        snapshots: steps at which weights are saved, to see how a model developed.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    decays_norms: bool = False
    beta2: float = 0.99
    ema_decay: float = 0.0
    seed: int = 0
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Clip:
    """The CLIP model: both towers have `width`, `n_layers` and `n_heads`.

    Args:
        attribute_weight: weight of the auxiliary losses for the attributes.
        with_changed: whether a picture must also tell its caption from one with an attribute
            changed (hard negatives, Yuksekgonul et al. 2023, section 4).
    """

    fit: Fit
    width: int = 128
    n_layers: int = 3
    n_heads: int = 4
    patch_size: int = 4
    projection_dim: int = 64
    n_captions: int = 60_000
    attribute_weight: float = 1.0
    with_changed: bool = True


@dataclass(frozen=True)
class Tuning:
    """How CLIP's vision tower and projections are trained further, for metrics."""

    fit: Fit
    n_captions: int = 60_000


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
        unet: arguments of the model, apart from those that follow from latents and text states.
        dropped_captions: share of captions replaced by the empty one, for guidance.
        snr_clip: errors in velocity are weighted by min(SNR + 1, this) / (SNR + 1); see
            `velocity_weight`.
        prediction_type: what the UNet predicts: "v_prediction", or "epsilon" (the noise, with all
            errors weighted alike, as Stable Diffusion 1 was trained).
    """

    fit: Fit
    unet: dict[str, Any]
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    dropped_captions: float = 0.1
    snr_clip: float = 5.0


@dataclass(frozen=True)
class Distillation:
    """The few-step student of the model with SDXL's structure.

    Args:
        student_steps: sampler steps of the student.
        teacher_steps: teacher's steps that one step of the student replaces.
        guidance_scale: the teacher's guidance scale, which the student has built in.
    """

    fit: Fit
    student_steps: int = 4
    teacher_steps: int = 3
    guidance_scale: float = 1.5


@dataclass(frozen=True)
class Sibling:
    """A second model with SDXL's structure; it shares autoencoder, pictures and first encoder.

    Args:
        clip: the CLIP model whose text tower is the second text encoder.
        diffusion: the UNet, conditioned on both text encoders.
        distillation: the few-step variant.
    """

    clip: Clip
    diffusion: Diffusion
    distillation: Distillation


@dataclass(frozen=True)
class Settings:
    """All stages; `image_size` is the side of a picture in pixels."""

    clip: Clip
    measuring_clip: Tuning
    autoencoder: Autoencoder
    diffusion: Diffusion
    xl: Sibling
    latents: Latents = field(default_factory=Latents)
    image_size: int = 32


def sd_unet(channels: tuple[int, ...], layers: int = 1) -> dict[str, Any]:
    """Stable Diffusion 1's arrangement at three resolutions."""
    return {
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": channels,
        "layers_per_block": layers,
        # What diffusers calls the dimension of heads is their number. With so few heads and norm
        # groups, each is nearly as wide as in Stable Diffusion: see trials.md in the docs.
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }


def sdxl_unet(channels: tuple[int, ...], heads: tuple[int, ...], pooled: int) -> dict[str, Any]:
    """SDXL's arrangement: no attention at the finest resolution, deeper transformers inside.

    `pooled` is the width of the pooled text embedding; six numbers (sizes and crop) follow it.
    """
    time_width = 16
    return {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": channels,
        "layers_per_block": 1,
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": heads,
        "norm_num_groups": 16,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": time_width,
        "projection_class_embeddings_input_dim": pooled + 6 * time_width,
    }


SNAPSHOTS = (100, 200, 400, 800, 1600, 3200)
"""Steps at which the UNet's weights are saved, evenly spaced on a logarithmic axis."""

SMALL = Settings(
    clip=Clip(Fit(steps=700, batch_size=128, learning_rate=1e-3)),
    measuring_clip=Tuning(Fit(steps=300, batch_size=128, learning_rate=5e-4, seed=5)),
    autoencoder=Autoencoder(Fit(steps=2400, batch_size=32, learning_rate=2e-3)),
    diffusion=Diffusion(
        Fit(
            steps=4800,
            batch_size=64,
            learning_rate=2e-3,
            warmup_steps=200,
            ema_decay=0.999,
            snapshots=SNAPSHOTS,
        ),
        unet=sd_unet((64, 128, 128)),
    ),
    xl=Sibling(
        clip=Clip(
            Fit(steps=400, batch_size=128, learning_rate=1e-3, seed=2), width=96, with_changed=False
        ),
        diffusion=Diffusion(
            Fit(
                steps=4000,
                batch_size=64,
                learning_rate=1e-3,
                warmup_steps=200,
                ema_decay=0.999,
                seed=3,
            ),
            unet=sdxl_unet((64, 96, 96), heads=(4, 6, 6), pooled=64),
        ),
        distillation=Distillation(
            Fit(
                steps=200,
                batch_size=64,
                learning_rate=5e-4,
                warmup_steps=20,
                ema_decay=0.98,
                seed=4,
            )
        ),
    ),
)
"""Pictures of 32 pixels, for two CPU cores: the models that are shipped."""

LARGE = Settings(
    image_size=64,
    clip=Clip(Fit(steps=4000, batch_size=256, learning_rate=1e-3), patch_size=8),
    measuring_clip=Tuning(Fit(steps=1000, batch_size=256, learning_rate=5e-4, seed=5)),
    autoencoder=Autoencoder(
        Fit(steps=6000, batch_size=64, learning_rate=1e-3), block_out_channels=(64, 96, 128)
    ),
    # Nearly all further captions would be of two objects: the other kinds are soon exhausted.
    latents=Latents(renders=8),
    diffusion=Diffusion(
        Fit(
            steps=20_000,
            batch_size=256,
            learning_rate=6e-4,
            warmup_steps=500,
            ema_decay=0.9995,
            snapshots=(*SNAPSHOTS, 6400, 12_800),
        ),
        unet=sd_unet((64, 128, 192), layers=2),
    ),
    xl=Sibling(
        clip=Clip(
            Fit(steps=4000, batch_size=256, learning_rate=1e-3, seed=2), width=192, patch_size=8
        ),
        diffusion=Diffusion(
            Fit(
                steps=20_000,
                batch_size=256,
                learning_rate=6e-4,
                warmup_steps=500,
                ema_decay=0.9995,
                seed=3,
            ),
            unet=sdxl_unet((64, 128, 192), heads=(4, 8, 12), pooled=64),
        ),
        distillation=Distillation(
            Fit(
                steps=10_000,
                batch_size=256,
                learning_rate=2e-4,
                warmup_steps=100,
                ema_decay=0.999,
                seed=4,
            )
        ),
    ),
)
"""Pictures of 64 pixels, for a GPU."""
