"""The cost of each layer of a UNet: weights, multiply-accumulates, bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import FrozenLayer
from dgq.inspection.cost import LAYERS, bits_of, fan_in


@dataclass(frozen=True)
class LayerCost:
    """Cost of one linear or convolution layer in one call of the UNet.

    Args:
        weights: number of its weights, without biases.
        weight_bits: 32 in floating point.
        activation_bits: bits of its input; 32 in floating point.
        macs: multiply-accumulates.
        input_shape: shape of its input.
    """

    weights: int
    weight_bits: int
    activation_bits: int
    macs: int
    input_shape: tuple[int, ...]

    @property
    def bops(self) -> int:
        """Bit operations."""
        return self.macs * self.weight_bits * self.activation_bits

    @property
    def weight_bytes(self) -> float:
        """Bytes of the codes, or of weights in float32."""
        return self.weights * self.weight_bits / 8


@torch.no_grad()
def layer_costs(unet: nn.Module, call: Mapping[str, Any]) -> dict[str, LayerCost]:
    """The cost of each layer by name, in the order in which a call runs them.

    Args:
        unet: stock, under calibration or quantized; on the meta device no weights are needed.
        call: keyword arguments; the call is made once.
    """
    costs: dict[str, LayerCost] = {}
    layers = {name: module for name, module in unet.named_modules() if isinstance(module, LAYERS)}

    def note(name: str, layer: nn.Module, x: Any, output: Tensor) -> None:
        codes = getattr(x, "codes", x)  # what an integer layer reads
        costs[name] = LayerCost(
            weight_count(layer),
            bits_of(layer, "weight_bits"),
            bits_of(layer, "activation_bits"),
            output.numel() * fan_in(layer),
            tuple(codes.shape),
        )

    hooks = [
        layer.register_forward_hook(
            lambda layer, args, output, name=name: note(name, layer, args[0], output)
        )
        for name, layer in layers.items()
    ]
    try:
        unet(**call)
    finally:
        for hook in hooks:
            hook.remove()
    return costs


def weight_count(layer: nn.Module) -> int:
    """Number of weights of a layer in any of its forms."""
    if isinstance(layer, FrozenLayer | KernelLayer):
        return prod(layer.geometry.weight_shape)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer.weight.numel()
