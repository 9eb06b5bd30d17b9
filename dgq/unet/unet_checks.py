"""Checks of a UNet before it is quantized, and which layers stay in floating point.

A layer is replaced by one that computes the same with quantized operands. Anything else that was
done to a layer, an attention or the UNet (adapters, hooks, compiled code) would be lost, so it is
refused with a one-line error instead of being dropped.
"""

from collections.abc import Iterable, Mapping

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

from dgq.errors import DGQError
from dgq.unet.attention import unsupported_feature
from dgq.unet.geometry import geometry_of
from dgq.unet.processors import is_equivalent

CLASSES = (UNet2DConditionModel,)
"""Classes whose quantized models can be loaded again."""

NORMS = (nn.GroupNorm, nn.LayerNorm)
"""Layers with weights that do not multiply."""

WEIGHT_READERS = ("ImageProjection",)
"""Diffusers modules that look at the weight of a layer, if only for its dtype."""


def check_unet(unet: nn.Module) -> None:
    """Raise DGQError for a UNet that cannot be quantized, or would lose something by it."""
    if not isinstance(unet, CLASSES):
        what = "a compiled UNet" if hasattr(unet, "_orig_mod") else f"a {type(unet).__name__}"
        raise DGQError(
            f"this is {what}: expected a stock UNet2DConditionModel; compile and wrap it when it "
            "is quantized"
        )
    if type(unet).forward not in [known.forward for known in CLASSES]:
        raise DGQError(
            f"{type(unet).__name__} computes in its own way: expected a UNet2DConditionModel, as "
            "which a quantized model is loaded again"
        )
    _check_state(unet)
    _check_changes(unet)
    check_attentions(unet)
    if unet.config.get("attention_type", "default") != "default":
        raise DGQError(
            f"attention_type is {unet.config['attention_type']!r}: layers that only run with boxes "
            "(GLIGEN) cannot be calibrated; expected the UNet of a text-to-image pipeline"
        )


def _check_state(unet: UNet2DConditionModel) -> None:
    """Raise DGQError unless all weights are available in full precision."""
    for name, tensor in (*unet.named_parameters(), *unet.named_buffers()):
        if tensor.is_meta:
            raise DGQError(
                f"{name} is on the meta device: load the UNet without offloading it, and without "
                "device_map"
            )
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise DGQError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')}: calibration computes in "
                "float32; convert the whole pipeline by pipeline.to(torch.float32), or load it so"
            )


def _check_changes(unet: UNet2DConditionModel) -> None:
    """Raise DGQError for changes to a stock UNet that would be lost."""
    if getattr(unet, "_hf_peft_config_loaded", False):
        raise DGQError(
            "an adapter is loaded into this UNet: make it part of the weights by pipeline."
            "fuse_lora() and pipeline.unload_lora_weights(), or unload it and load it again when "
            "the UNet is quantized"
        )
    for name, module in unet.named_modules():
        own = f"{name} ({type(module).__name__})" if name else f"this {type(module).__name__}"
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise DGQError(f"{own} is compiled: compile the UNet when it is quantized")
        if "forward" in vars(module):
            raise DGQError(
                f"{own} had its forward replaced, by offloading or a library that patches models: "
                "hand over the UNet as it was loaded"
            )
        if hasattr(module, "get_base_layer"):
            raise DGQError(f"{own} is an adapter's layer: fuse or unload the adapter first")
    _check_layers(unet)


def _check_layers(unet: UNet2DConditionModel) -> None:
    """Raise DGQError for layers that are more than a linear or convolution layer."""
    seen: dict[int, str] = {}
    for name, module in unet.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        own = f"{name} ({type(module).__name__})"
        if id(module) in seen:
            raise DGQError(
                f"{name} and {seen[id(module)]} are one module: expected one for each place; "
                "copy.deepcopy makes another"
            )
        seen[id(module)] = name
        if type(module) not in (nn.Linear, nn.Conv2d):
            raise DGQError(
                f"{own} is not a plain nn.Linear or nn.Conv2d: what it adds would be lost"
            )
        if type(module.weight) is not nn.Parameter:
            raise DGQError(f"{own} has weights of its own kind, quantized already or parametrized")
        if module._forward_pre_hooks or module._forward_hooks:
            raise DGQError(f"{own} has hooks, which would be lost: remove them first")
        geometry_of(module, name)
        parent = unet.get_submodule(name.rpartition(".")[0])
        if name.endswith((".to_q", ".to_k", ".to_v")) and not isinstance(parent, Attention):
            raise DGQError(
                f"{name} belongs to a {type(parent).__name__}: expected an attention of diffusers"
            )


def check_attentions(unet: nn.Module) -> None:
    """Raise DGQError for attentions with parts that quantized attention does not compute."""
    for name, module in unet.named_modules():
        if not isinstance(module, Attention):
            continue
        feature = unsupported_feature(module)
        if feature is not None:
            raise DGQError(
                f"{name} uses {feature}, which quantized attention does not compute; expected the "
                "transformer blocks of Stable Diffusion 1.x, 2.x or SDXL"
            )
        if getattr(module, "fused_projections", False):
            raise DGQError(
                f"{name} has fused projections, of which unfuse_qkv_projections leaves "
                "a part: load the UNet anew"
            )
        processor = module.processor
        if type(module).forward is not Attention.forward or not is_equivalent(processor):
            kind = type(processor).__name__
            raise DGQError(
                f"{name} is computed by {kind}, which quantized attention does not do: remove "
                "it by unet.set_default_attn_processor(), or what it belongs to (IP-Adapter, PAG)"
            )


def check_not_read(unet: nn.Module, names: Iterable[str]) -> None:
    """Raise DGQError for layers whose weight their owner reads: packed layers have none.

    Args:
        unet: stock.
        names: names of the layers to be quantized.
    """
    for name in names:
        owner = type(unet.get_submodule(name.rpartition(".")[0])).__name__
        if owner in WEIGHT_READERS:
            raise DGQError(
                f"{name} cannot be quantized, since {owner} reads its weight: keep it in full "
                f"precision by quantization.keep {name}"
            )


def layers_in_float(unet: nn.Module, quantized: Iterable[str]) -> Mapping[str, str]:
    """Layers with weights, other than norms, that stay in floating point.

    Args:
        unet: stock.
        quantized: names of the quantized layers.

    Returns:
        The kind of each, by name.
    """
    replaced = set(quantized)
    return {
        name: type(module).__name__
        for name, module in unet.named_modules()
        if name not in replaced
        and not isinstance(module, NORMS)
        and next(module.parameters(recurse=False), None) is not None
    }
