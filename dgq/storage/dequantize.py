"""Conversion back to a stock UNet, with the weights that the quantized UNet multiplied."""

import copy

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn

from dgq.errors import DGQError
from dgq.inference.layers import FrozenLayer
from dgq.inference.laying_out import unfold_layers_
from dgq.torch_defaults import torch_defaults
from dgq.unet.attention import QuantizedAttention
from dgq.unet.geometry import stock_layer
from dgq.unet.quantized_unet import QuantizedUNet
from dgq.unet.quantized_unet import become_stock_ as unet_becomes_stock_
from dgq.unet.split_layer import join_


def dequantize(unet: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A stock UNet with the dequantized weights; the quantized UNet is not changed.

    Args:
        unet: a loaded quantized UNet.
        dtype: dtype of the weights.

    Raises:
        DGQError: if it is not quantized, or is being calibrated.
    """
    check_loaded(unet, dtype)
    copied = copy.deepcopy(unet)
    dequantize_(copied, dtype)
    return copied


@torch_defaults()
@torch.no_grad()
def dequantize_(unet: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Turn a quantized UNet into a stock one, in place; raises as ``dequantize`` does."""
    check_loaded(unet, dtype)
    assert isinstance(unet, QuantizedUNet)
    unfold_layers_(unet)
    names = [name for name, module in unet.named_modules() if isinstance(module, FrozenLayer)]
    for name in names:
        layer = unet.get_submodule(name)
        assert isinstance(layer, FrozenLayer)
        unet.set_submodule(name, dequantized_layer(layer, dtype))
        del layer
    join_(unet)
    for module in unet.modules():
        if isinstance(module, QuantizedAttention):
            attention_becomes_stock_(module)
    unet_becomes_stock_(unet)
    nn.Module.to(unet, dtype)  # what was never quantized may be in another


def check_loaded(unet: nn.Module, dtype: torch.dtype) -> None:
    """Raise DGQError unless a UNet can be dequantized, and to this dtype."""
    if not isinstance(unet, QuantizedUNet) or unet.execution is None:
        raise DGQError("this is no quantized UNet as it is loaded: there is nothing to dequantize")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise DGQError(f"dtype must be one of floating point, such as torch.float16, got {dtype!r}")


OF_QUANTIZED = (
    *("context_quantizer", "score_quantizer", "calls", "keep_start", "keep_start_text", "attend"),
    "own_processor",
)
"""Attributes of a quantized attention besides its other quantizers."""


def attention_becomes_stock_(attention: QuantizedAttention) -> None:
    """Remove the quantizers of an attention."""
    for name in [n for n, _ in attention.named_children() if n.endswith("_quantizer")]:
        delattr(attention, name)
    own = attention.own_processor
    for name in OF_QUANTIZED:
        attention.__dict__.pop(name, None)
        attention._modules.pop(name, None)
    attention.__class__ = Attention
    attention.set_processor(own or AttnProcessor2_0())


def dequantized_layer(layer: FrozenLayer, dtype: torch.dtype) -> nn.Linear | nn.Conv2d:
    """The stock layer equivalent to a quantized one."""
    weight, bias = layer.operands()
    made = stock_layer(layer.geometry, bias is not None)
    made.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.to(dtype, copy=True), requires_grad=False)
    return made.train(layer.training)
