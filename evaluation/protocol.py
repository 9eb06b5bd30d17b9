"""The settings that determine an evaluation's numbers; presets are in ``configs/protocols``."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dgq.calibration.row_batches import SEEDS
from dgq.errors import SettingsError
from dgq.inference.execution import MODES, Mode
from dgq.settings import check_choice, check_positive

DEFAULT_NUM_IMAGES = 256
LARGEST_MEASURED = 4096
"""Largest side in pixels that images are resized to; more would fill the memory without any use."""

FeatureSource = Literal["clip", "inception"]


@dataclass(frozen=True)
class Protocol:
    """What is drawn and how it is measured; validated on creation.

    Args:
        execution: how quantized UNets run: integer, float, or auto, which uses integers where
            this machine multiplies them exactly and fast.
        prompts: COCO captions JSON, metadata.csv or its folder, PartiPrompts.tsv, text with one
            prompt per line, or a dataset's hub id (owner/name:split:column); by default held-out
            captions of scenes.
        references: for FID and KID, a folder of real images or an npz with mu and sigma as
            pytorch-fid writes it; by default renders of held-out scenes if prompts are scene
            captions.
        num_images: prompts to draw; by default 256, or all of a shorter file.
        seeds: seeds of the noise, one set of images for each; the first also draws scene captions.
        num_inference_steps: sampler steps; by default what the model was calibrated for, else 25.
        guidance_scale: classifier-free guidance; by default what the model was calibrated for,
            else 7.5.
        height: height of the images in pixels; by default the pipeline's own.
        width: width of the images in pixels; by default the pipeline's own.
        jpeg_quality: keep images as JPEG of this quality (1 to 95) instead of PNG.
        measured_size: resize images, drawn and real, to this side before they are measured; drawn
            JPEG images are then encoded once more.
        features: the network behind FID, KID and Inception score: clip (the CLIP model) or
            inception.
        inception: state dict of pytorch-fid's Inception; by default the one in torch.hub's folder.
        clip: hub id or folder of a CLIP model, or open_clip:ARCHITECTURE:WEIGHTS; by default the
            embedded one of scenes, or none with inception.
        clip_images: number of first images that the CLIP score uses; by default all.
        inception_score_splits: parts whose Inception scores are averaged.
        sqnr_prompts: prompts on which the outputs of the UNets are compared.
        metrics: names of the only metrics to measure; by default all that apply.
        lpips: perceptual distance to full precision; by default if the package is installed.
        image_reward: ImageReward of each image, which needs its package.

    Raises:
        SettingsError: if a value is outside its domain.
    """

    execution: Mode = "auto"
    prompts: str | None = None
    references: Path | None = None
    num_images: int | None = None
    seeds: tuple[int, ...] = (0,)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    jpeg_quality: int | None = None
    measured_size: int | None = None
    features: FeatureSource = "clip"
    inception: Path | None = None
    clip: str | None = None
    clip_images: int | None = None
    inception_score_splits: int = 1
    sqnr_prompts: int = 32
    metrics: tuple[str, ...] | None = None
    lpips: bool | None = None
    image_reward: bool = False

    def __post_init__(self) -> None:
        for name in (
            *("num_images", "num_inference_steps", "height", "width", "measured_size"),
            *("clip_images", "inception_score_splits", "sqnr_prompts"),
        ):
            value = getattr(self, name)
            if value is not None:
                check_positive(flag(name), value)
        self._check_seeds()
        self._check_images()
        check_choice("--execution", self.execution, MODES)
        check_choice("--features", self.features, get_args(FeatureSource))
        if self.inception is not None and self.features != "inception":
            raise SettingsError("--inception gives weights: it goes with --features inception")
        if self.clip is not None and not self.clip.strip():
            raise SettingsError("--clip is empty: name a model, or leave it out")
        guidance = self.guidance_scale
        if guidance is not None and not (math.isfinite(guidance) and guidance >= 0):
            raise SettingsError(f"--guidance-scale must be at least 0 and finite, got {guidance}")

    def _check_seeds(self) -> None:
        seeds = " ".join(map(str, self.seeds))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise SettingsError(f"--seeds must be distinct and at least 0, got {seeds}")
        if max(self.seeds) >= SEEDS:
            raise SettingsError(f"--seeds must be less than {SEEDS}, got {seeds}")

    def _check_images(self) -> None:
        if (self.height is None) != (self.width is None):
            raise SettingsError("--height and --width go together: pipelines ignore one alone")
        quality = self.jpeg_quality
        if quality is not None and not 1 <= quality <= 95:
            raise SettingsError(f"--jpeg-quality must be 1 to 95, got {quality}")
        if self.measured_size is not None and self.measured_size > LARGEST_MEASURED:
            raise SettingsError(
                f"--measured-size must be at most {LARGEST_MEASURED}, got {self.measured_size}"
            )


def flag(name: str) -> str:
    """A setting as the option of the command line."""
    return "--" + name.replace("_", "-")
