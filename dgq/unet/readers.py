"""Layers that read a tensor quantized by their owner, and adapters that may wrap them."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from dgq.unet.projection import Projection


class Joint(Protocol):
    """One product of several layers (``dgq.inference.joint_product``)."""

    def is_of(self, layers: Sequence[nn.Module]) -> bool:
        """Whether these are exactly the layers of this product, in its order."""

    def __call__(self, quantized: Any) -> Sequence[Tensor]:
        """The output of each layer for the quantized tensor that they read."""


class Reader:
    """Mixed into layers whose ``forward(x, quantized=None, of=None)`` takes two forms of a tensor.

    Given ``quantized``, the quantized form of the tensor ``of``, they compute on it. ``x`` is for
    adapters and hooks around them, which read the tensor before quantization; where a hook has
    replaced it, the layer quantizes the replacement.
    """

    joint: Joint | None = None
    """The product of this layer and others that read the same tensor, if they have one."""

    projection: Projection | None = None
    """How its attention quantizes around it; None for layers that quantize their own input."""

    def given(self, x: Any, quantized: Any, of: Tensor | None) -> Any:
        """``x``, quantized by the owner of this layer; unquantized if it has none.

        Args:
            x: the tensor to read.
            quantized: what the owner quantized.
            of: the tensor that it quantized; None for ``x``.
        """
        if quantized is not None and (of is None or of is x):
            return quantized
        return x if self.projection is None else self.projection.quantized(x)


def unwrapped(layer: nn.Module) -> nn.Module:
    """A layer without its adapters, if none of them changes the output."""
    while hasattr(layer, "base_layer") and not changes(layer):
        layer = layer.base_layer  # type: ignore[assignment]
    return layer


def innermost(layer: nn.Module) -> nn.Module:
    """A layer without anything that wraps it."""
    while hasattr(layer, "base_layer"):
        layer = layer.base_layer  # type: ignore[assignment]
    return layer


def changes(adapter: nn.Module) -> bool:
    """Whether a wrapper changes a layer's output: always, except for PEFT adapters that are off."""
    scaling = getattr(adapter, "scaling", None)
    if not isinstance(scaling, dict) or getattr(adapter, "merged", False):
        return True
    if getattr(adapter, "disable_adapters", False):
        return False
    # After enable_lora_hotswap a scaling is a tensor, whose value graphs and devices hold back.
    scalings = [scaling.get(name, 0) for name in getattr(adapter, "active_adapters", ())]
    return any(isinstance(each, Tensor) or each != 0 for each in scalings)


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks of a module, torch's or those of accelerate and diffusers, see its calls."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def read_all(layers: Sequence[nn.Module], x: Tensor, quantized: Any) -> Sequence[Tensor]:
    """``read`` for layers of one attention, by their joint product if they have one.

    Layers are read one by one while adapters are on or hooks observe their calls.
    """
    bare = [unwrapped(layer) for layer in layers]
    joint: Joint | None = getattr(bare[0], "joint", None)
    if joint is not None and joint.is_of(bare) and not any(map(is_hooked, (*layers, *bare))):
        return joint(quantized)
    return [read(layer, x, quantized) for layer in layers]


def read(layer: nn.Module, x: Tensor, quantized: Any) -> Tensor:
    """Output of a layer, possibly wrapped by adapters, for a tensor quantized by its owner.

    Args:
        layer: a reader, an unquantized layer, or an adapter around either.
        x: the tensor before quantization.
        quantized: the same tensor, quantized: a tensor or ``QuantizedTensor``.
    """
    reads_both = isinstance(innermost(layer), Reader)
    output: Tensor = layer(x, quantized=quantized, of=x) if reads_both else layer(quantized)
    return output
