"""Export pipelines and CLIP as folders for `from_pretrained`, in fp16."""

import json
import os
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from scenes.training.arrays import is_done
from scenes.training.checkpoints import CHECKPOINT, read_average
from scenes.training.clip import save
from scenes.training.diffusion import build
from scenes.training.folders import replaced
from scenes.training.log import LOG, read_log
from scenes.training.pipelines import (
    euler,
    euler_trailing,
    pndm,
    stable_diffusion,
    stable_diffusion_xl,
)
from scenes.training.settings import Settings
from scenes.training.tokenizer import build_tokenizer

LOGS = "training"
"""Folder of the exported training logs, one for each stage."""


def export(settings: Settings, work: Path, assets: Path) -> list[str]:
    """Write the trained models into `assets`; returns the names of the folders written.

    Each folder is written under another name and then renamed, so readers never see half of it.
    """
    written = ["clip", "pipeline"]
    _export_clip(work / "measuring-clip" / "model", assets / "clip", settings.image_size)
    unet = read_unet(settings, settings.diffusion.unet, work / "diffusion", text_encoders=1)
    sampler = pndm(settings.diffusion.prediction_type)
    _export_pipeline(stable_diffusion(work, unet, sampler), assets / "pipeline")
    for stage, xl_sampler in (("xl", euler), ("few-step", euler_trailing)):
        if is_done(work / stage):
            arguments = settings.xl.diffusion.unet
            unet = read_unet(settings, arguments, work / stage, text_encoders=2)
            _export_pipeline(stable_diffusion_xl(work, unet, xl_sampler()), assets / stage)
            written.append(stage)
    _export_logs(work, assets / LOGS)
    return written


def read_unet(
    settings: Settings, arguments: dict[str, Any], folder: Path, text_encoders: int
) -> UNet2DConditionModel:
    """The UNet of a stage's folder as trained so far, with averaged weights, for inference."""
    side = settings.image_size // 2 ** (len(settings.autoencoder.block_out_channels) - 1)
    widths = (settings.clip.width, settings.xl.clip.width)
    unet = build(arguments, side, sum(widths[:text_encoders]))
    read_average(folder / CHECKPOINT, unet)
    unet.set_attn_processor(AttnProcessor2_0())
    return unet.eval()


def _export_pipeline(pipeline: DiffusionPipeline, place: Path) -> None:
    parts = {n: part for n, part in pipeline.components.items() if isinstance(part, nn.Module)}
    for part in parts.values():
        part.half()
    tokenizers = [n for n, p in pipeline.components.items() if isinstance(p, CLIPTokenizer)]
    with replaced(place) as new:
        pipeline.save_pretrained(new)
        for name in tokenizers:
            build_tokenizer(new / name)
        for name in parts:
            if name.startswith("text_encoder"):
                _declare_float32(new / name / "config.json")
        _forget_origin(new / "vae" / "config.json")


def _export_clip(model: Path, place: Path, image_size: int) -> None:
    clip, tokenizer = CLIPModel.from_pretrained(model).half(), CLIPTokenizer.from_pretrained(model)
    with replaced(place) as new:
        save(clip, tokenizer, image_size, new)
        _declare_float32(new / "config.json")


def _export_logs(work: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for log in sorted(work.glob(f"*/{LOG}")):
        stage = log.parent
        new = place / f".{stage.name}.new"
        new.write_text("".join(f"{json.dumps(line)}\n" for line in read_log(stage)))
        os.replace(new, place / f"{stage.name}.jsonl")


def _forget_origin(config: Path) -> None:
    """Remove the path that diffusers loaded a model from: it belongs to this machine."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def _declare_float32(config: Path) -> None:
    """Make transformers load fp16 files in float32, as diffusers does."""
    values = json.loads(config.read_text())
    for part in (values, values.get("text_config", {}), values.get("vision_config", {})):
        part.pop("torch_dtype", None)
        if "dtype" in part:
            part["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
