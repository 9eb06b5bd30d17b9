"""What the user asks of an evaluation."""

import math
from dataclasses import dataclass
from pathlib import Path

from dgq.errors import SettingsError
from dgq.settings import check_positive

DEFAULT_NUM_IMAGES = 256


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of one evaluation, validated when they are made.

    Args:
        ckpt: run folder of a quantized model, such as ``outputs/w4a8``.
        output: folder for images and results; None is ``<run>/evaluation``.
        full_precision_images: folder for the full-precision images, which several evaluations may
            share; None is ``<output>/images/full_precision``.
        num_images: images of each pipeline; None is 256, or all prompts of a shorter file.
        batch_size: images generated at once.
        seed: seeds the prompts, the noise of each image and the references.
        num_inference_steps: sampler steps; None is what the model was calibrated for.
        guidance_scale: classifier-free guidance; None is what the model was calibrated for.
        prompts: text file with a prompt on each line, or COCO captions JSON; None draws
            held-out captions of scenes.
        references: folder of real images for FID; None renders scenes where prompts are captions.
        pipeline: hub id or folder of the full-precision pipeline; None is the calibrated one.
        clip: hub id or folder of the CLIP model that measures; None is the embedded one.
        sqnr_prompts: prompts on which the UNet's outputs are compared.
        device: torch device; None is a GPU where there is one, else the CPU.
        overwrite: discard images in ``output`` that were made with other settings.

    Raises:
        SettingsError: if a number is outside its domain.
    """

    ckpt: Path
    output: Path | None = None
    full_precision_images: Path | None = None
    num_images: int | None = None
    batch_size: int = 16
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    prompts: Path | None = None
    references: Path | None = None
    pipeline: str | None = None
    clip: str | None = None
    sqnr_prompts: int = 32
    device: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size", "num_inference_steps", "sqnr_prompts"):
            value = getattr(self, name)
            if value is not None:
                check_positive(_flag(name), value)
        if self.seed < 0:
            raise SettingsError(f"--seed must be at least 0, got {self.seed}")
        guidance = self.guidance_scale
        if guidance is not None and not (math.isfinite(guidance) and guidance >= 0):
            raise SettingsError(f"--guidance-scale must be at least 0 and finite, got {guidance}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
