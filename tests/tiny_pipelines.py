"""Pipelines with the structure of SD 1.4 and SDXL, random weights, small enough for a test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dgq.calibration.learning import harden_, start_learning_
from dgq.settings import QuantizationSettings
from dgq.targets import Block
from dgq.unet.context import quantization
from dgq.unet.quantize import fit_activations_, quantize_, start_observing_
from scenes.training.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[1]
TEXT_WIDTH = 16


def learning_options(iterations: int, polish_iterations: int) -> tuple[str, ...]:
    """Options of train.py for so many steps of learning."""
    option = "--model.recipe.learning"
    return (
        *(f"{option}.iterations", str(iterations)),
        *(f"{option}.polish_iterations", str(polish_iterations)),
    )


LEARNING = (*learning_options(3, 2), "--model.recipe.range_method", "minmax")
"""Options of a calibration that takes seconds."""


def save_sd(folder: Path) -> Path:
    """A pipeline with the structure of SD 1.4: four levels, 78 targets, 8x8 latents."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer-source")
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)).eval(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32, 32),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=8,
        ).eval(),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "sd")
    return folder / "sd"


def micro_unet() -> UNet2DConditionModel:
    """Two levels of 8x8 and 4x4 latents, self- and cross-attention, skips; 24 targets."""
    torch.manual_seed(0)
    return two_level_unet((8, 16), TEXT_WIDTH, n_groups=4)


def two_level_unet(
    channels: tuple[int, int], text_width: int, n_groups: int, layers: int = 1, heads: int = 2
) -> UNet2DConditionModel:
    """Of 8x8 and 4x4 latents, the smaller ones with attention."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=heads,
        norm_num_groups=n_groups,
    ).eval()


def save_micro(folder: Path) -> Path:
    """The smallest Stable Diffusion pipeline, with ``micro_unet``."""
    torch.manual_seed(0)  # of text encoder and VAE
    tokenizer = build_tokenizer(folder / "tokenizer-source")
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)).eval(),
        tokenizer=tokenizer,
        unet=micro_unet(),
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "micro")
    return folder / "micro"


def unet_call(
    unet: UNet2DConditionModel, batch: int, timestep: float, size: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Random keyword arguments for one call of a UNet of this file."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    call: dict[str, Any] = {
        "sample": randn(4, size, size),
        "timestep": torch.full((batch,), timestep),
        "encoder_hidden_states": randn(77, unet.config["cross_attention_dim"]),
        "return_dict": False,
    }
    if unet.config["addition_embed_type"] == "text_time":
        time_ids = torch.tensor([[8.0, 8.0, 0.0, 0.0, 8.0, 8.0]]).repeat(batch, 1)
        call["added_cond_kwargs"] = {"text_embeds": randn(TEXT_WIDTH), "time_ids": time_ids}
    return call


@torch.no_grad()
def calibrate_(
    unet: UNet2DConditionModel,
    settings: QuantizationSettings,
    timesteps: Sequence[float] = (801.0, 401.0, 1.0),
    calls: Sequence[Mapping[str, Any]] | None = None,
) -> UNet2DConditionModel:
    """Quantize, with ranges from the calls (random ones by default) and nearest rounding."""
    if calls is None:
        calls = [unet_call(unet, 2, t, seed=i) for i, t in enumerate(timesteps)]
    quantize_(unet, settings, timesteps, (8, 8))
    start_observing_(unet)
    with quantization(unet, weights=False, activations=False, observing=True):
        for call in calls:
            unet(**call)
    fit_activations_(unet)
    start_learning_(Block(unet))
    harden_(Block(unet))
    return unet


def save_sdxl(folder: Path) -> Path:
    """The structure of SDXL-turbo: two text encoders, ``text_time``, three levels, 75 targets."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer-source")
    config = text_config(tokenizer)
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            cross_attention_dim=2 * TEXT_WIDTH,
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
            norm_num_groups=8,
        ).eval(),
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
    )
    pipeline.save_pretrained(folder / "sdxl")
    return folder / "sdxl"


def fit_arguments(pipeline: Path, work: Path, run: str = "run", *more: str) -> list[str]:
    """A command that calibrates on three prompts, two steps and a handful of iterations.

    Args:
        pipeline: folder of the pipeline.
        work: folder for the captions, the recorded calls (``cache``) and the run.
        run: name of the run's folder.
        more: arguments that go before these.
    """
    captions = work / "captions.txt"
    captions.write_text("\n".join(f"a picture of {i} red circles" for i in range(9)))
    return [
        *("fit", *more),
        *("--pipeline", str(pipeline)),
        *("--run", str(work / run)),
        *("--data.cache", str(work / "cache")),
        *("--data.captions", str(captions)),
        *("--data.n_prompts", "3"),
        *("--data.generation.num_inference_steps", "2"),
        *("--data.generation.guidance_scale", "3"),
        *("--data.batch_size", "4"),
        *("--trainer.accelerator", "cpu"),
    ]


def tiny_vae() -> AutoencoderKL:
    """Two levels: images of twice the latents' size."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    ).eval()


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """One layer over the tokenizer's vocabulary."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
