"""Layers that read a tensor which their owner has quantized, and what may be put around them."""

from typing import Any

from torch import Tensor, nn


class Reader:
    """Mixed into layers whose ``forward(x, quantized=None)`` takes a tensor and its quantized form.

    Given ``quantized``, they compute on it; ``x`` is for adapters around them, which read what was
    not quantized.
    """


def unwrapped(layer: nn.Module) -> nn.Module:
    """A layer without the adapters around it, where none of them changes what it computes."""
    while hasattr(layer, "base_layer") and not changes(layer):
        layer = layer.base_layer  # type: ignore[assignment]
    return layer


def innermost(layer: nn.Module) -> nn.Module:
    """A layer without whatever is around it."""
    while hasattr(layer, "base_layer"):
        layer = layer.base_layer  # type: ignore[assignment]
    return layer


def changes(adapter: nn.Module) -> bool:
    """Whether what is around a layer adds to it; true of all but PEFT's adapters that are off."""
    scaling = getattr(adapter, "scaling", None)
    if not isinstance(scaling, dict) or getattr(adapter, "merged", False):
        return True
    if getattr(adapter, "disable_adapters", False):
        return False
    return any(scaling.get(name, 0) != 0 for name in getattr(adapter, "active_adapters", ()))


def read(layer: nn.Module, x: Tensor, quantized: Any) -> Tensor:
    """What a layer, or one with adapters around it, makes of a tensor quantized by its owner.

    Args:
        layer: a reader, a kept layer, or an adapter around either.
        x: not quantized.
        quantized: the same, quantized: a tensor or ``QuantizedTensor``.
    """
    base = getattr(layer, "base_layer", None)
    output: Tensor
    output = layer(x, quantized=quantized) if isinstance(base, Reader) else layer(quantized)
    return output
