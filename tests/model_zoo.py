"""Tiny versions of the models that people have: what calibrates, and what is refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from scenes.training.tokenizer import build_tokenizer
from tests.tiny_pipelines import TEXT_WIDTH, text_config, tiny_vae

MICRO: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
"""Configuration of a UNet of two levels."""

XL: dict[str, Any] = {
    "cross_attention_dim": 2 * TEXT_WIDTH,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
}
"""What makes it one of SDXL."""

SECOND_WIDTH = 24
"""Of the second text encoder, where it differs from the first, as in SDXL."""

REFINER = XL | {
    "cross_attention_dim": TEXT_WIDTH,
    "projection_class_embeddings_input_dim": 5 * 8 + TEXT_WIDTH,
}


def micro(**changes: Any) -> UNet2DConditionModel:
    """A UNet of two levels with some settings of its own."""
    torch.manual_seed(0)
    return UNet2DConditionModel(**MICRO | changes).eval()


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline that calibrates.

    Args:
        pipeline: its class.
        unet: settings of the UNet.
        scheduler: its sampler.
        text: settings of the text encoders.
        text_2: settings of the second text encoder alone.
        encoders: what the names of text encoders and tokenizers end with.
        extra: further components and settings.
        note: for the documentation.
    """

    pipeline: str = "StableDiffusionPipeline"
    unet: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Callable[[], Any] = lambda: PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    text: Mapping[str, Any] = field(default_factory=dict)
    text_2: Mapping[str, Any] = field(default_factory=dict)
    encoders: tuple[str, ...] = ("",)
    extra: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def build(self, work: Path) -> DiffusionPipeline:
        """The pipeline, on the CPU."""
        torch.manual_seed(0)
        tokenizer = build_tokenizer(work / "tokenizer-source")
        projected = "XL" in self.pipeline
        parts: dict[str, Any] = {"text_encoder": None, "tokenizer": None} if projected else {}
        for end in self.encoders:
            kind = CLIPTextModelWithProjection if end else CLIPTextModel
            config = text_config(tokenizer)
            for name, value in (*self.text.items(), *(self.text_2.items() if end else ())):
                setattr(config, name, value)
            parts[f"text_encoder{end}"], parts[f"tokenizer{end}"] = kind(config).eval(), tokenizer
        if not projected:
            parts |= {"safety_checker": None, "feature_extractor": None}
        if not projected and self.pipeline != "StableDiffusionUpscalePipeline":
            parts["requires_safety_checker"] = False
        return getattr(diffusers, self.pipeline)(
            vae=tiny_vae(),
            unet=micro(**self.unet),
            scheduler=self.scheduler(),
            **parts,
            **self.extra,
        )

    def save(self, work: Path) -> Path:
        """The folder that it was saved in."""
        self.build(work).save_pretrained(work / "pipeline")
        return work / "pipeline"


def v_prediction() -> DDIMScheduler:
    """The sampler of Stable Diffusion 2."""
    return DDIMScheduler(prediction_type="v_prediction", steps_offset=1, clip_sample=False)


GREY = "recorded with grey images"
CALIBRATE: dict[str, Kind] = {
    "Stable Diffusion 1.x": Kind(note="4 channels"),
    "Stable Diffusion 2.x": Kind(
        unet={"use_linear_projection": True, "attention_head_dim": (2, 4)},
        scheduler=v_prediction,
        text={"hidden_act": "gelu", "num_hidden_layers": 2},
        note="v-prediction, linear projections, OpenCLIP's text encoder",
    ),
    "SDXL": Kind(
        "StableDiffusionXLPipeline",
        XL
        | {
            "transformer_layers_per_block": (1, 2),
            "cross_attention_dim": TEXT_WIDTH + SECOND_WIDTH,
            "projection_class_embeddings_input_dim": 6 * 8 + SECOND_WIDTH,
        },
        EulerDiscreteScheduler,
        text_2={"hidden_size": SECOND_WIDTH, "projection_dim": SECOND_WIDTH},
        encoders=("", "_2"),
        note="two text encoders, `text_time`",
    ),
    "SDXL-turbo": Kind(
        "StableDiffusionXLPipeline",
        XL,
        lambda: EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
        encoders=("", "_2"),
        note="the same, guidance 0",
    ),
    "SDXL refiner": Kind(
        "StableDiffusionXLImg2ImgPipeline",
        REFINER,
        EulerDiscreteScheduler,
        encoders=("_2",),
        extra={"requires_aesthetics_score": True},
        note=f"aesthetic score, one text encoder; {GREY} that are replaced entirely",
    ),
    "SSD-1B, Vega": Kind(
        "StableDiffusionXLPipeline",
        XL
        | {
            "layers_per_block": 2,
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": (1, (2, 1)),
            "reverse_transformer_layers_per_block": ((1, 2, 1), 1),
        },
        EulerDiscreteScheduler,
        encoders=("", "_2"),
        note="transformers of different depth, no attention in the middle",
    ),
    "BK-SDM": Kind(unet={"mid_block_type": None}, note="no middle block, fewer layers"),
    "LCM": Kind(
        "LatentConsistencyModelPipeline",
        {"time_cond_proj_dim": 32},
        LCMScheduler,
        note="guidance as an embedding (`timestep_cond`)",
    ),
    "image to image": Kind(
        "StableDiffusionImg2ImgPipeline", note=f"{GREY} that are replaced entirely"
    ),
    "inpainting": Kind(
        "StableDiffusionInpaintPipeline",
        {"in_channels": 9},
        note=f"9 channels; {GREY} under a full mask",
    ),
    "SDXL inpainting": Kind(
        "StableDiffusionXLInpaintPipeline",
        XL | {"in_channels": 9},
        EulerDiscreteScheduler,
        encoders=("", "_2"),
        note=f"9 channels; {GREY} under a full mask",
    ),
    "InstructPix2Pix": Kind(
        "StableDiffusionInstructPix2PixPipeline",
        {"in_channels": 8},
        lambda: EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
        note=f"8 channels, three halves with separate latents; {GREY}",
    ),
    "x4 upscaler": Kind(
        "StableDiffusionUpscalePipeline",
        {"in_channels": 7, "num_class_embeds": 1000, "only_cross_attention": (True, False)},
        v_prediction,
        extra={"low_res_scheduler": DDPMScheduler(), "max_noise_level": 350},
        note=f"7 channels, noise level as a class; {GREY}",
    ),
}
"""Kinds of pipelines that calibrate, by name."""


UNET_CLASS = ("diffusers", "UNet2DConditionModel")
REFUSED: dict[str, tuple[str, dict[str, tuple[str, str]], str]] = {
    "DDPM, DDIM (no text)": ("DDPMPipeline", {"unet": ("diffusers", "UNet2DModel")}, "UNet2DModel"),
    "LDM (no text)": ("LDMPipeline", {"unet": ("diffusers", "UNet2DModel")}, "UNet2DModel"),
    "LDM text-to-image": (
        "LDMTextToImagePipeline",
        {"unet": UNET_CLASS, "bert": ("latent_diffusion", "LDMBertModel")},
        "are unknown",
    ),
    "Flux": ("FluxPipeline", {"transformer": ("diffusers", "FluxTransformer2DModel")}, "no UNet"),
    "Stable Diffusion 3": (
        "StableDiffusion3Pipeline",
        {"transformer": ("diffusers", "SD3Transformer2DModel")},
        "has a transformer (SD3Transformer2DModel) and no UNet",
    ),
    "PixArt, DiT": (
        "PixArtAlphaPipeline",
        {"transformer": ("diffusers", "PixArtTransformer2DModel")},
        "no UNet",
    ),
    "Stable Cascade": (
        "StableCascadeDecoderPipeline",
        {"decoder": ("diffusers", "StableCascadeUNet")},
        "embeddings of images",
    ),
    "unCLIP": ("UnCLIPPipeline", {"decoder": UNET_CLASS}, "embeddings of images"),
    "Kandinsky 2.x": ("KandinskyV22Pipeline", {"unet": UNET_CLASS}, "are unknown"),
    "Kandinsky 3": (
        "Kandinsky3Pipeline",
        {"unet": ("diffusers", "Kandinsky3UNet")},
        "its UNet has an unsupported class, Kandinsky3UNet",
    ),
    "DeepFloyd IF": ("IFPipeline", {"unet": UNET_CLASS}, "are unknown"),
    "Stable unCLIP": ("StableUnCLIPPipeline", {"unet": UNET_CLASS}, "are unknown"),
    "Kolors": ("KolorsPipeline", {"unet": UNET_CLASS}, "are unknown"),
    "ControlNet pipelines": (
        "StableDiffusionControlNetPipeline",
        {"unet": UNET_CLASS, "controlnet": ("diffusers", "ControlNetModel")},
        "adds a ControlNet: calibrate the pipeline that it extends",
    ),
    "T2I-adapter pipelines": (
        "StableDiffusionAdapterPipeline",
        {"unet": UNET_CLASS, "adapter": ("diffusers", "T2IAdapter")},
        "adds an adapter",
    ),
    "AnimateDiff": (
        "AnimateDiffPipeline",
        {"unet": UNET_CLASS, "motion_adapter": ("diffusers", "MotionAdapter")},
        "it draws videos",
    ),
    "text-to-video": (
        "TextToVideoSDPipeline",
        {"unet": ("diffusers", "UNet3DConditionModel")},
        "its UNet has an unsupported class, UNet3DConditionModel",
    ),
    "Stable Video Diffusion": (
        "StableVideoDiffusionPipeline",
        {"unet": ("diffusers", "UNetSpatioTemporalConditionModel")},
        "its UNet has an unsupported class, UNetSpatioTemporalConditionModel",
    ),
    "AudioLDM": ("AudioLDMPipeline", {"unet": UNET_CLASS}, "are unknown"),
    "AudioLDM 2": (
        "AudioLDM2Pipeline",
        {"unet": ("audioldm2", "AudioLDM2UNet2DConditionModel")},
        "its UNet has an unsupported class, AudioLDM2UNet2DConditionModel",
    ),
    "GLIGEN": ("StableDiffusionGLIGENPipeline", {"unet": UNET_CLASS}, "are unknown"),
    "depth to image": ("StableDiffusionDepth2ImgPipeline", {"unet": UNET_CLASS}, "are unknown"),
    "latent upscaler": (
        "StableDiffusionLatentUpscalePipeline",
        {"unet": UNET_CLASS},
        "are unknown",
    ),
}
"""Kinds of pipelines that are refused: class, components that say why, and what is said."""


def save_index(folder: Path, kind: str, parts: Mapping[str, tuple[str, str]]) -> Path:
    """A folder that says what it is and holds nothing else: no weight can be read."""
    folder.mkdir(parents=True)
    index = {"_class_name": kind, "_diffusers_version": "0.42.0", "scheduler": ["diffusers", "X"]}
    (folder / "model_index.json").write_text(
        json.dumps(index | {n: [*p] for n, p in parts.items()})
    )
    return folder
