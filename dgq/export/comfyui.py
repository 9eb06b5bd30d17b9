"""The UNet in ComfyUI's format: int8 linear layers by output channel, the rest in 16 bits.

ComfyUI multiplies such a weight with activations that it quantizes itself, with one scale for each
row of each call. So the file contains only the weights of a calibration and none of its ranges: no
zero points, no scales of channels or steps.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.export.layers import scale_of
from dgq.export.ldm_names import ldm_name, ldm_prefixes
from dgq.export.phases import Phase
from dgq.inference.integer_layer import fold
from dgq.inference.layers import FrozenLayer, PackedLayer
from dgq.storage.checkpoint import load_quantized_unet
from dgq.storage.tensor_files import write_tensors
from dgq.unet.geometry import LinearGeometry
from dgq.unet.split_layer import SplitConv2d, join_tensors_

MODEL = "unet.safetensors"
QUANTIZED = {"format": "int8_tensorwise"}
"""ComfyUI's name for int8 weights, with one scale or one for each output channel."""

LARGEST = 127


def write_comfyui(source: Path, folder: Path, phase: Phase) -> str:
    """Write the UNet of a quantized model to ``folder``; returns a summary of its layers.

    Args:
        source: folder of the quantized model.
        folder: an existing folder.
        phase: context around each part of the work.
    """
    with phase("loading"):
        unet = load_quantized_unet(source, "float", torch.float32)
        tensors = comfyui_tensors(unet)
    with phase("writing"):
        write_tensors(folder / MODEL, tensors, {"format": "pt"})
    n_int8 = sum(tensor.dtype == torch.int8 for tensor in tensors.values())
    n_layers = sum(isinstance(module, FrozenLayer) for module in unet.modules())
    return f"{n_int8} linear layers in int8, {n_layers - n_int8} other layers in float16"


def comfyui_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """The tensors of a quantized UNet under the names that ComfyUI reads.

    Args:
        unet: a UNet loaded with ``execution="float"``.

    Raises:
        DGQError: if the original layout cannot describe it, or no linear layer is quantized.
    """
    prefixes = ldm_prefixes(unet.config)
    named = {ldm_name(n, prefixes): tensor for n, tensor in tensors_of(unet).items()}
    if not any(tensor.dtype == torch.int8 for tensor in named.values()):
        raise DGQError("no linear layer of this model is quantized: there is nothing to export")
    return named


def tensors_of(unet: nn.Module) -> dict[str, Tensor]:
    """Tensors by diffusers name: quantized linear layers in ComfyUI's form, others in float16."""
    found: dict[str, Tensor] = {}
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, FrozenLayer)}
    for name, layer in layers.items():
        found |= {f"{name}.{leaf}": tensor for leaf, tensor in layer_tensors(layer).items()}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
            own = module.named_parameters(recurse=False)
            found |= {f"{name}.{leaf}": tensor.half() for leaf, tensor in own}
    for name, module in unet.named_modules():
        if isinstance(module, SplitConv2d):
            join_tensors_(found, f"{name}.")
    return found


def layer_tensors(layer: FrozenLayer) -> dict[str, Tensor]:
    """The tensors of one quantized layer."""
    found = {} if layer.bias is None else {"bias": layer.bias.half()}
    if not isinstance(layer, PackedLayer) or not isinstance(layer.geometry, LinearGeometry):
        return found | {"weight": layer.operands()[0].half()}
    codes, scale = by_output_channel(layer)
    text = json.dumps(QUANTIZED).encode()
    return found | {
        "weight": codes,
        "weight_scale": scale[:, None],
        "comfy_quant": torch.frombuffer(bytearray(text), dtype=torch.uint8),
    }


def by_output_channel(layer: PackedLayer) -> tuple[Tensor, Tensor]:
    """Int8 codes ``[out, in]`` and scales ``[out]`` of a quantized linear layer.

    The grid of weights with few bits fits into int8 and is kept exactly; 8-bit weights with zero
    points are rounded to a symmetric one.
    """
    folded = fold(layer, torch.ones(layer.in_channels, dtype=torch.int64))
    if folded is not None:
        return folded, scale_of(layer).float()
    weight, _ = layer.operands()
    scale = weight.abs().amax(1) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale[:, None]).round().to(torch.int8), scale
