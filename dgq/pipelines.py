"""Loading text-to-image pipelines from a folder or the hub."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors import SafetensorError

from dgq.errors import DGQError

_SCENES = Path(__file__).parents[1] / "assets" / "scenes"
EMBEDDED = {
    "scenes": _SCENES / "pipeline",
    "scenes-xl": _SCENES / "xl",
    "scenes-few-step": _SCENES / "few-step",
}
"""Pipelines that come with this project, by name: Stable Diffusion 1's structure, then SDXL's."""

HUB_TIMEOUT_S = 10


def load_pipeline(source: str) -> DiffusionPipeline:
    """A text-to-image pipeline in float32 and evaluation mode, without progress bars.

    Args:
        source: the name of an embedded model (``EMBEDDED``), a folder as ``save_pretrained``
            writes it, or the id of a model on the hub.

    Raises:
        DGQError: if it cannot be found or read.
    """
    location = resolve(source)
    try:
        config = DiffusionPipeline.load_config(location)
        # A pipeline without a safety checker would warn of arguments that it does not know.
        optional: dict[str, Any] = (
            {"safety_checker": None, "requires_safety_checker": False}
            if "safety_checker" in config
            else {}
        )
        pipeline = DiffusionPipeline.from_pretrained(
            location, dtype=torch.float32, use_safetensors=True, **optional
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise unavailable(source, error) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.eval()
    return pipeline


def load_unet(source: str) -> UNet2DConditionModel:
    """The UNet of a pipeline in float32 and evaluation mode; ``source`` as in ``load_pipeline``."""
    try:
        unet = UNet2DConditionModel.from_pretrained(
            resolve(source), subfolder="unet", dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise unavailable(source, error) from error
    return unet.eval()


def resolve(source: str) -> str:
    """The folder or hub id behind a name.

    Raises:
        DGQError: for a folder that is no pipeline and a hub model that cannot be had.
    """
    if source in EMBEDDED:
        return str(EMBEDDED[source])
    folder = Path(source)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise DGQError(
            f"{source} is not a pipeline: expected a folder with model_index.json, as "
            "`DiffusionPipeline.save_pretrained` writes it"
        )
    if not folder.exists():
        check_hub(source)
    return source


def check_hub(source: str) -> None:
    """Fail at once, rather than after minutes of retries, if a hub model cannot be had."""
    try:
        if isinstance(try_to_load_from_cache(source, "model_index.json"), str):
            return
        HfApi().model_info(source, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # no network, model or permission, no possible id: whatever it is
        raise unavailable(source, error) from error


def unavailable(source: str, error: Exception) -> DGQError:
    """The one line that says what is missing and how to get it."""
    if Path(source).exists() or source in EMBEDDED:
        return DGQError(f"cannot read the pipeline {source}: {first_line(error)}")
    folder = "models/" + source.rpartition("/")[2]
    return DGQError(
        f"{source} is neither a local folder nor can it be downloaded ({type(error).__name__}): "
        f"run `hf download {source} --local-dir {folder}` where there is internet, then add "
        f"`--pipeline {folder}`"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]
