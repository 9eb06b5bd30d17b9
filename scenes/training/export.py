"""Putting the parts together: the pipeline and CLIP as folders for `from_pretrained`, in fp16."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import CLIPModel

from scenes.training.clip import save, text_tower
from scenes.training.diffusion import build, scheduler
from scenes.training.loop import CHECKPOINT, read_average
from scenes.training.settings import Settings
from scenes.training.tokenizer import build_tokenizer


def export(settings: Settings, folder: Path, assets: Path) -> int:
    """Write `assets`/pipeline and `assets`/clip; returns the UNet's training step.

    Each folder is written beside its place and moved there, so that readers never see half of it.
    """
    text_encoder, tokenizer = text_tower(folder / "clip" / "model")
    vae = AutoencoderKL.from_pretrained(folder / "autoencoder" / "model")
    side = settings.image_size // 2 ** (len(settings.autoencoder.block_out_channels) - 1)
    unet = build(settings.diffusion, side, text_encoder.config.hidden_size)
    step = read_average(folder / "diffusion" / CHECKPOINT, unet)
    unet.set_attn_processor(AttnProcessor2_0())
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.half()
    clip = CLIPModel.from_pretrained(folder / "clip" / "model").half()
    with _replaced(assets / "pipeline") as new:
        pipeline.save_pretrained(new)
        build_tokenizer(new / "tokenizer")
        _declare_float32(new / "text_encoder" / "config.json")
    with _replaced(assets / "clip") as new:
        save(clip, tokenizer, settings.image_size, new)
        _declare_float32(new / "config.json")
    return step


@contextmanager
def _replaced(place: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of an old one when all went well."""
    new, old = (place.with_name(f".{place.name}.{state}") for state in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if place.exists():
        os.rename(place, old)
    os.rename(new, place)
    shutil.rmtree(old, ignore_errors=True)


def _declare_float32(config: Path) -> None:
    """Have transformers load in single precision, as diffusers does, what is stored in half."""
    values = json.loads(config.read_text())
    for part in (values, values.get("text_config", {}), values.get("vision_config", {})):
        part.pop("torch_dtype", None)
        if "dtype" in part:
            part["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
