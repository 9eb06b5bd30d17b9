"""Checks of the model to calibrate: a pipeline that draws from prompts, or a UNet."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import nn

from dgq.errors import DGQError, first_line
from dgq.pipelines.kinds import KINDS
from dgq.pipelines.sources import canonical
from dgq.recipes.recipe import Recipe
from dgq.unet.as_configured import check_as_configured
from dgq.unet.quantize import quantizable_layers


def unet_of(model: Any) -> UNet2DConditionModel:
    """The UNet of a pipeline, or a UNet that was given itself.

    Raises:
        DGQError: for a pipeline without a UNet.
    """
    if not isinstance(model, DiffusionPipeline):
        return model
    unet = getattr(model, "unet", None)
    if unet is None:
        raise DGQError(f"{type(model).__name__} has no UNet: expected {' or '.join(KINDS)}")
    return unet


def check_calibratable(unet: UNet2DConditionModel, recipe: Recipe) -> None:
    """Raise DGQError for a UNet that cannot be calibrated as it is, without changing it.

    Args:
        unet: the given UNet.
        recipe: what will be quantized.
    """
    quantizable_layers(unet, recipe.quantization.keep)
    check_as_configured(unet)
    for name, tensor in (*unet.named_parameters(), *unet.named_buffers()):
        if tensor.is_inference():
            raise DGQError(
                f"{name} was made in torch.inference_mode, where nothing can be learned: load or "
                "build the UNet outside of it"
            )
        if not bool(tensor.isfinite().all()):
            raise DGQError(f"{name} of this UNet has values that are not finite: restore it")
    if not recipe.targets(unet):
        raise DGQError("there is nothing to quantize: keep matches every layer")


def check_call(unet: nn.Module, call: Mapping[str, Any]) -> None:
    """Raise DGQError unless the UNet accepts this call and returns finite numbers."""
    chunked = [n for n, m in unet.named_modules() if getattr(m, "_chunk_size", None) is not None]
    if chunked:
        raise DGQError(
            f"{chunked[0]} computes its feed-forward in chunks, so that layers run several times "
            "in a call: switch that off (set_chunk_feed_forward(None, 0)) until it is quantized"
        )
    try:
        with torch.no_grad():
            output = unet(**call)[0]
    except Exception as error:  # whatever a stock UNet raises for arguments that do not fit
        raise DGQError(f"the UNet cannot be called so ({first_line(error)})") from error
    if not bool(output.isfinite().all()):
        raise DGQError("the UNet's output is not finite: its weights are damaged, or it overflows")


def source_of(model: Any) -> str:
    """Where a pipeline was loaded from; empty for one made in code, or for a UNet alone."""
    name = model.name_or_path if isinstance(model, DiffusionPipeline) else None
    return canonical(str(name)) if name else ""
