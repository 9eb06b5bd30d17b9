"""The user's settings of a picture."""

import math
from dataclasses import dataclass
from pathlib import Path

from dgq.calibration.row_batches import SEEDS
from dgq.errors import SettingsError
from dgq.inference.execution import MODES, Mode
from dgq.settings import check_choice, check_positive
from evaluation.protocol import flag


@dataclass(frozen=True)
class PictureSettings:
    """What to draw, with which model, and where to write it.

    Args:
        prompt: what to draw.
        ckpt: quantized model: a run's folder, its Lightning checkpoint, the folder of a model, or
            of a whole pipeline with a quantized UNet; without it, draw in full precision.
        compare: draw in full precision too, and show both pictures side by side.
        pipeline: full-precision pipeline (an embedded model's name, a folder or a hub id); by
            default the one that the model was made from, else `scenes`.
        steps: sampler steps; by default what the model was calibrated for, else 25.
        guidance: classifier-free guidance; by default what the model was calibrated for, else 7.5.
        seed: seed of the noise, the same as in evaluate.py.
        index: number of the first picture's noise; evaluate.py draws its caption i (from 0) with
            noise i.
        number: number of pictures of the prompt, each with its own noise.
        height: height of the picture in pixels; by default the pipeline's own.
        width: width of the picture in pixels; by default the pipeline's own.
        negative: what not to draw; needs guidance above 1.
        scheduler: another sampler: a class of diffusers that is compatible with the pipeline's.
        lora: LoRA to draw with, a safetensors file or a folder with pytorch_lora_weights.
        lora_scale: strength of the LoRA; 1 by default.
        execution: how a quantized UNet runs: integer, float, or auto, which uses integers where
            this machine multiplies them exactly and fast.
        device: torch device; by default a GPU if there is one, else the CPU.
        output: file of the picture, .png, .jpg or .webp; by default a new one in outputs/pictures.
        overwrite: replace the file.

    Raises:
        SettingsError: if a value is outside its domain, or two are incompatible.
    """

    prompt: str
    ckpt: Path | None = None
    compare: bool = False
    pipeline: str | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    index: int = 0
    number: int = 1
    height: int | None = None
    width: int | None = None
    negative: str | None = None
    scheduler: str | None = None
    lora: Path | None = None
    lora_scale: float | None = None
    execution: Mode = "auto"
    device: str | None = None
    output: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "number", "height", "width"):
            value = getattr(self, name)
            if value is not None:
                check_positive(flag(name), value)
        for name in ("seed", "index"):
            if not 0 <= getattr(self, name) < SEEDS:
                raise SettingsError(
                    f"{flag(name)} must be at least 0 and less than {SEEDS}, "
                    f"got {getattr(self, name)}"
                )
        check_choice("--execution", self.execution, MODES)
        self._check_numbers()
        self._check_together()

    def _check_numbers(self) -> None:
        if self.guidance is not None and not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise SettingsError(f"--guidance must be at least 0 and finite, got {self.guidance}")
        if self.lora_scale is not None and not math.isfinite(self.lora_scale):
            raise SettingsError(f"--lora-scale must be finite, got {self.lora_scale}")

    def _check_together(self) -> None:
        if (self.height is None) != (self.width is None):
            raise SettingsError("--height and --width go together: pipelines ignore one alone")
        if self.compare and self.ckpt is None:
            raise SettingsError("--compare needs a quantized model to compare with: give --ckpt")
        if self.execution != "auto" and self.ckpt is None:
            raise SettingsError("--execution is how a quantized model runs: give --ckpt")
        if self.lora_scale is not None and self.lora is None:
            raise SettingsError("--lora-scale is the strength of a LoRA: give --lora")
        if self.overwrite and self.output is None:
            raise SettingsError("--overwrite goes with --output, the file to replace")
