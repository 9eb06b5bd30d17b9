"""What can be calibrated: a pipeline that draws from prompts, or a UNet, as it must be."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

from dgq.attention import EQUIVALENT
from dgq.errors import DGQError
from dgq.pipeline_files import PIPELINES
from dgq.pipelines import canonical, first_line
from dgq.quantize import check_attentions
from dgq.quantized_unet import QuantizedUNet
from dgq.settings import QuantizationSettings
from dgq.targets import find_targets


def unet_of(model: Any) -> UNet2DConditionModel:
    """The UNet of a pipeline, or the one given.

    Raises:
        DGQError: for anything else.
    """
    unet = model
    if isinstance(model, DiffusionPipeline):
        unet = getattr(model, "unet", None)
        if unet is None:
            raise DGQError(f"{type(model).__name__} has no UNet: expected {' or '.join(PIPELINES)}")
    if not isinstance(unet, UNet2DConditionModel):
        hint = (
            "; give the UNet as it was before torch.compile" if hasattr(unet, "_orig_mod") else ""
        )
        raise DGQError(
            f"a {type(unet).__name__} cannot be calibrated: expected a diffusers pipeline or its "
            f"UNet2DConditionModel{hint}"
        )
    return unet


def check_unet(unet: UNet2DConditionModel, settings: QuantizationSettings) -> None:
    """Raise DGQError for a UNet that cannot be calibrated as it is; it stays as it is.

    Args:
        unet: given.
        settings: what will be quantized.
    """
    if isinstance(unet, QuantizedUNet):
        raise DGQError("this UNet is quantized already: load the full-precision one again")
    if getattr(unet, "peft_config", None):
        raise DGQError("this UNet has adapters: fuse or unload them before it is calibrated")
    if any(hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook") for m in unet.modules()):
        raise DGQError("this UNet is offloaded or hooked: calibrate before that is enabled")
    if getattr(unet, "_compiled_call_impl", None) is not None:
        raise DGQError("this UNet is compiled: calibrate before unet.compile()")
    tensors = {**dict(unet.named_parameters()), **dict(unet.named_buffers())}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise DGQError(f"{name} of this UNet has no values (meta device): load its weights")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise DGQError(
                f"{name} of this UNet is in {str(tensor.dtype).removeprefix('torch.')}: load it "
                "with torch_dtype=torch.float32, or call unet.float()"
            )
        if not bool(tensor.isfinite().all()):
            raise DGQError(f"{name} of this UNet has values that are not finite: restore it")
    check_attentions(unet)
    check_processors(unet)
    if not find_targets(unet, settings.keep):
        raise DGQError("there is nothing to quantize: keep matches every layer")


def check_processors(unet: UNet2DConditionModel) -> None:
    """Raise DGQError for attentions that compute in a way of their own, as with an IP-Adapter."""
    for name, module in unet.named_modules():
        kind = type(module.processor).__name__ if isinstance(module, Attention) else None
        if kind is not None and kind not in EQUIVALENT:
            raise DGQError(
                f"{name} has a {kind}, which quantization would lose: call "
                "unet.set_default_attn_processor(), or unfuse or unload what set it"
            )


def check_call(unet: nn.Module, call: Mapping[str, Any]) -> None:
    """Raise DGQError unless the UNet can be called so, and answers with numbers."""
    try:
        with torch.no_grad():
            output = unet(**call)[0]
    except Exception as error:  # whatever a stock UNet raises for arguments that do not fit
        raise DGQError(f"the UNet cannot be called so ({first_line(error)})") from error
    if not bool(output.isfinite().all()):
        raise DGQError("the UNet's output is not finite: its weights are damaged, or it overflows")


def source_of(model: Any) -> str:
    """Where a pipeline was loaded from; nothing for one made in code, or a UNet alone."""
    name = model.name_or_path if isinstance(model, DiffusionPipeline) else None
    return canonical(str(name)) if name else ""
