"""State dicts of parts of a quantized UNet, with dequantized weights that stock modules can load.

The state dict of the whole UNet, or of a quantized layer, holds what is stored: codes and scales.
The state dict of a part in between (``unet.down_blocks.state_dict()``), from which diffusers makes
ControlNets and motion models, holds what a stock part would hold.
"""

import threading
import warnings
from typing import Any

from torch import Tensor, nn

from dgq.errors import DGQError


class _Asked(threading.local):
    """Whether this thread is asking for the state of a whole UNet."""

    def __init__(self) -> None:
        self.whole = False


_asked = _Asked()


def of_part(prefix: str) -> bool:
    """Whether the state dict being made is that of a part; ``prefix`` is of a module in it."""
    return bool(prefix) and not _asked.whole


class HasParts(nn.Module):
    """Mixed into quantized UNets: their own state dict holds what is stored."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As ``nn.Module.state_dict``."""
        before, _asked.whole = _asked.whole, True
        try:
            return super().state_dict(*args, **kwargs)
        finally:
            _asked.whole = before


class InPart(nn.Module):
    """A quantized module that has no counterpart in a stock part: a quantizer."""

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        if of_part(prefix):
            self.save_stock(destination, prefix)
        else:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def save_stock(self, destination: dict[str, Tensor], prefix: str) -> None:
        """Add the tensors of the stock counterpart to a state dict."""


class LayerInPart(InPart):
    """A quantized layer, whose stock counterpart holds a weight and a bias."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and "weight" not in self._parameters:
            raise DGQError(
                "this layer holds its weight as codes, so none can be assigned: assign it to a "
                "layer of dgq.dequantize(unet), which computes in floating point"
            )
        super().__setattr__(name, value)

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """Weight, dequantized, and bias."""
        raise NotImplementedError

    def save_stock(self, destination: dict[str, Tensor], prefix: str) -> None:
        """Add weight and bias to a state dict.

        Raises:
            DGQError: if the layer has adapters, which stock parts do not have.
        """
        if prefix.endswith("base_layer."):
            raise DGQError(
                "parts of this UNet are to be copied while adapters are on it: unload them first "
                "(`pipe.unload_lora_weights()`)"
            )
        warnings.warn(
            "a part of a quantized UNet is copied: its weights are given dequantized, and what is "
            "made of them computes in floating point, in the precision that you convert it to",
            stacklevel=2,
        )
        weight, bias = self.operands()
        destination[prefix + "weight"] = weight.detach()
        if bias is not None:
            destination[prefix + "bias"] = bias.detach()
