"""Pipelines with the structure of SD 1.4 and SDXL, random weights, small enough for a test."""

from pathlib import Path

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

from scenes.training.tokenizer import build_tokenizer

TEXT_WIDTH = 16


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
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "sd")
    return folder / "sd"


def save_sdxl(folder: Path) -> Path:
    """A pipeline with the structure of SDXL-turbo: two text encoders, ``text_time``, three levels."""
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
