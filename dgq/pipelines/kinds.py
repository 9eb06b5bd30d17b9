"""The kinds of pipelines whose UNet can be calibrated, and why others are refused.

A kind is identified by the class that ``model_index.json`` names, before any weight is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Needs = Literal["prompt", "start image", "masked image", "edited image", "small image"]


@dataclass(frozen=True)
class PipelineKind:
    """What a kind of pipeline is made of.

    Args:
        needs: input besides the prompt, if any (see ``dgq.pipelines.inputs``).
        parts: components that it requires, besides UNet, VAE and sampler.
    """

    needs: Needs = "prompt"
    parts: tuple[str, ...] = ("text_encoder", "tokenizer")

    def extra_channels(self, latents: int) -> tuple[int, ...]:
        """Possible numbers of UNet input channels besides the latents.

        Args:
            latents: channels of the latents.
        """
        match self.needs:
            case "masked image":  # mask and latents of what is kept; or an ordinary UNet
                return (0, latents + 1)
            case "edited image":
                return (latents,)
            case "small image":
                return (3,)
        return (0,)


SECOND = ("text_encoder_2", "tokenizer_2")
"""Text encoders of SDXL's refiner, which has no others."""

KINDS = {
    "StableDiffusionPipeline": PipelineKind(),
    "StableDiffusionXLPipeline": PipelineKind(),
    "LatentConsistencyModelPipeline": PipelineKind(),
    "StableDiffusionImg2ImgPipeline": PipelineKind("start image"),
    "StableDiffusionXLImg2ImgPipeline": PipelineKind("start image", SECOND),
    "StableDiffusionInpaintPipeline": PipelineKind("masked image"),
    "StableDiffusionXLInpaintPipeline": PipelineKind("masked image", SECOND),
    "StableDiffusionInstructPix2PixPipeline": PipelineKind("edited image"),
    "StableDiffusionUpscalePipeline": PipelineKind("small image"),
}
"""Kinds by the name of the class."""

UNET = "UNet2DConditionModel"

BASE = "calibrate the pipeline that it extends, and give it that UNet"
ADDITIONS = {
    "controlnet": f"it adds a ControlNet: {BASE}",
    "adapter": f"it adds an adapter: {BASE}",
    "motion_adapter": "it draws videos, and prompts are recorded as still images",
}
"""Components for which a pipeline is refused, with the reason, by name."""


def why_refused(index: Mapping[str, Any]) -> str | None:
    """Why the pipeline that an index describes cannot be calibrated; None if it can.

    Args:
        index: content of ``model_index.json``.
    """
    name = index.get("_class_name")
    classes = {
        part: str(value[1])
        for part, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[1]
    }
    unet = classes.get("unet")
    if isinstance(name, str) and name in KINDS:
        return None if unet in (UNET, None) else f"its UNet has an unsupported class, {unet}"
    for part, reason in ADDITIONS.items():
        if part in classes:
            return reason
    if "transformer" in classes:
        return f"it has a transformer ({classes['transformer']}) and no UNet"
    if "decoder" in classes or "prior_prior" in classes:
        return f"it draws with a {classes.get('decoder', 'decoder')} from embeddings of images"
    if unet is None:
        return "it has no UNet"
    if unet != UNET:
        return f"its UNet has an unsupported class, {unet}"
    return "the inputs of its UNet are unknown"
