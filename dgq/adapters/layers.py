"""PEFT's LoRA layers around quantized ones. Needs ``peft``; imported when an adapter is added."""

from itertools import chain
from typing import Any

import torch
from peft.tuners.lora.layer import Conv2d, Linear
from torch import Tensor, nn

from dgq.adapters.fusing import refusal_to_fuse
from dgq.unet.geometry import ConvGeometry, HasGeometry, geometry_of, stock_layer
from dgq.unet.readers import Reader, innermost
from dgq.unet.split_layer import SplitConv2d
from dgq.unet.stock_state import LayerInPart


class AroundQuantized(nn.Module):
    """Mixed into PEFT's layers: shows them a stock layer while they inspect the layer they wrap."""

    base_layer: Any
    _move_adapter_to_device_of_base_layer: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(stand_in(base_layer), adapter_name, *args, **kwargs)
        self.base_layer = base_layer
        self._move_adapter_to_device_of_base_layer(adapter_name)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer multiplies by, dequantized: PEFT asks where it is."""
        return weight_of(innermost(self.base_layer))

    def update_layer(self, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter."""
        base_layer = self.base_layer
        self.base_layer = stand_in(base_layer)
        try:
            super().update_layer(adapter_name, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.base_layer = base_layer
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _get_base_layer_device_and_dtype(
        self, base_layer: nn.Module
    ) -> tuple[torch.device | None, torch.dtype]:
        device = next(chain(base_layer.parameters(), base_layer.buffers())).device
        return None if device.type == "meta" else device, torch.float32

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """As in PEFT, if the layer was dequantized.

        Raises:
            DGQError: if the layer is quantized.
        """
        if isinstance(self.base_layer, Reader):
            raise refusal_to_fuse()
        super().merge(*args, **kwargs)  # type: ignore[misc]


class LoraLinear(AroundQuantized, Linear):
    """LoRA around a quantized linear layer."""


class LoraConv2d(AroundQuantized, Conv2d):
    """LoRA around a quantized convolution."""


def lora_layer(target: nn.Module, adapter_name: str, config: Any, **kwargs: Any) -> nn.Module:
    """The PEFT layer that wraps a quantized layer."""
    kind = LoraConv2d if isinstance(geometry(target), ConvGeometry) else LoraLinear
    return kind(target, adapter_name, config=config, **kwargs)


def geometry(layer: nn.Module) -> Any:
    """The geometry of a layer: quantized, under calibration, or stock."""
    if isinstance(layer, HasGeometry):
        return layer.geometry
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return geometry_of(layer, type(layer).__name__)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer: quantized, under calibration, or stock."""
    if isinstance(layer, SplitConv2d):
        return torch.cat([weight_of(part) for part in (layer.first, layer.second)], 1)
    if isinstance(layer, LayerInPart):
        return layer.operands()[0]
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer.weight


def stand_in(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """A stock layer of the same sizes, without memory."""
    return stock_layer(geometry(layer))
