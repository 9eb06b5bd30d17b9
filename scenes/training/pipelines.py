"""The stages' results put together as pipelines."""

from pathlib import Path

from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

VELOCITY = "v_prediction"
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Stable Diffusion's noise schedule."""


def pndm(prediction_type: str = VELOCITY) -> PNDMScheduler:
    """The sampler of Stable Diffusion 1, for a UNet that predicts velocities or the noise."""
    return PNDMScheduler(
        **NOISE,
        prediction_type=prediction_type,
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )


def euler() -> EulerDiscreteScheduler:
    """The sampler of SDXL."""
    return EulerDiscreteScheduler(
        **NOISE, prediction_type=VELOCITY, timestep_spacing="leading", steps_offset=1
    )


def euler_trailing() -> EulerDiscreteScheduler:
    """A sampler of few steps: it starts at pure noise and ends at the clean picture."""
    return EulerDiscreteScheduler(**NOISE, prediction_type=VELOCITY, timestep_spacing="trailing")


def stable_diffusion(
    work: Path, unet: UNet2DConditionModel | None, scheduler: PNDMScheduler
) -> StableDiffusionPipeline:
    """The pipeline with Stable Diffusion 1's structure, from the stages' folders in `work`."""
    model = work / "clip" / "model"
    return StableDiffusionPipeline(
        vae=_autoencoder(work),
        text_encoder=CLIPTextModel.from_pretrained(model).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(model),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(
    work: Path, unet: UNet2DConditionModel | None, scheduler: EulerDiscreteScheduler
) -> StableDiffusionXLPipeline:
    """The pipeline with SDXL's structure, from the stages' folders in `work`."""
    first, second = work / "clip" / "model", work / "xl-clip" / "model"
    return StableDiffusionXLPipeline(
        vae=_autoencoder(work),
        text_encoder=CLIPTextModel.from_pretrained(first).eval(),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(second).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(first),
        tokenizer_2=CLIPTokenizer.from_pretrained(second),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )


def _autoencoder(work: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(work / "autoencoder" / "model").eval()
