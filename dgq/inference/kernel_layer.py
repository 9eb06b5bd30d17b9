"""A quantized layer whose weight is laid out for the kernels of one device."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.inference.folding import largest_exponent
from dgq.inference.layers import PackedLayer, dequantized, of_each, packed_codes
from dgq.inference.products.products import ProductWeight
from dgq.inference.stored_tensors import StoredTensors
from dgq.math.multiples import of_weights
from dgq.unet.compiling import LaidOut
from dgq.unet.devices import moves
from dgq.unet.geometry import HasGeometry
from dgq.unet.stock_state import LayerInPart, of_part

Weight = TypeVar("Weight", bound=ProductWeight)


class KernelLayer(HasGeometry, LayerInPart, StoredTensors, LaidOut, Generic[Weight]):
    """A layer made from a packed one; its state dict still holds the packed tensors.

    Codes are recovered from its weight, and so are exponents if the weight has them or all are 0,
    so that a weight is in memory only once.

    Args:
        packed: the layer in its stored form.
        weight: as the kernels read it.
    """

    scale: Tensor
    zero_point: Tensor
    exponent: Tensor | None
    multiple: Tensor | None
    bias: Tensor | None
    weight_scale: Tensor

    def __init__(self, packed: PackedLayer, weight: Weight) -> None:
        super().__init__()
        self.geometry = packed.geometry
        self.settings = packed.settings
        self.input_quantizer = packed.input_quantizer
        self.projection = packed.projection
        self.activation_bits = packed.activation_bits
        for name in ("scale", "zero_point", "exponent", "multiple", "bias"):
            self.store(name, getattr(packed, name))
        self.largest_exponent = largest_exponent(packed.exponent)
        if weight.shift is not None or self.largest_exponent == 0:
            self.store("exponent", None)
        scale = packed.scale * 2.0**-self.largest_exponent
        self.register_buffer("weight_scale", scale.detach(), persistent=False)
        self.kernel_weight = weight

    @property
    def weight_bits(self) -> int:
        """Bits of the codes."""
        return self.settings.n_bits

    def extra_repr(self) -> str:
        """Shown by ``print(unet)``."""
        return f"{self.geometry}, W{self.weight_bits}A{self.activation_bits}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not of_part(prefix):
            exponent = self.stored_exponent()
            destination[prefix + "codes"] = self.codes()
            if exponent is not None:
                destination[prefix + "exponent"] = exponent.detach()

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if any(prefix + name in state_dict for name in ("codes", "exponent", *self.stored)):
            raise DGQError(
                "a layer whose weight is laid out for a device takes no tensors alone: load the "
                "state dict of the whole UNet"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The weight, dequantized, float32, and the bias."""
        return dequantized(self, self.codes(), self.stored_exponent()), self.bias

    def stored_exponent(self) -> Tensor | None:
        """Exponents of groups that the weight was made from, uint8 ``[out, groups]``, if any."""
        if self.exponent is not None or not self.settings.has_exponents:
            return self.exponent
        shift = self.kernel_weight.shift
        if self.largest_exponent > 0 and shift is not None:
            return self.largest_exponent - shift
        groups = -(-self.fan_in // self.settings.group_size)
        return self.scale.new_zeros((self.geometry.out_channels, groups), dtype=torch.uint8)

    def codes(self) -> Tensor:
        """The packed codes ``[out, ...]`` that the weight was made from."""
        whole, exponent = self.kernel_weight.whole_numbers(), self.stored_exponent()
        if exponent is not None and self.largest_exponent > 0:
            shift = (self.largest_exponent - exponent).to(torch.int8)
            whole = whole >> of_each(shift, self.settings.group_size, self.fan_in)
        centred, factor = whole.to(torch.int16), self.kernel_weight.factor
        if factor is not None and bool((factor != 1).any()):
            centred //= of_weights(factor, self.geometry.weight_shape).to(torch.int16)
        return packed_codes(centred, self.zero_point, self.weight_bits)

    def unfolded(self) -> PackedLayer:
        """The layer in its stored form, which runs in floating point on any device."""
        has_bias = self.bias is not None
        geometry, quantizer, bits = self.geometry, self.input_quantizer, self.activation_bits
        with torch.device("meta"):
            packed = PackedLayer(
                geometry, quantizer, bits, weights=self.settings, has_bias=has_bias
            )
        packed.projection = self.projection
        packed.store("codes", self.codes().contiguous())
        for name, tensor in (self.stored | {"exponent": self.stored_exponent()}).items():
            packed.store(name, tensor)
        return packed.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if moves(fn, self.scale):
            raise DGQError(
                "a layer whose weight is laid out for a device cannot be moved alone: move the "
                "whole UNet, or let it run in floating point first: dgq.prepare_(unet, 'float')"
            )
        return super()._apply(fn, recurse)
