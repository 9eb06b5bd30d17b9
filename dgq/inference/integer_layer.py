"""A quantized layer that multiplies integers: one product of u8 codes with an s8 weight."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dgq.devices import moves
from dgq.errors import DGQError
from dgq.inference.folding import (
    fits,
    group_factors,
    largest_exponent,
    weight_factors,
    zero_point_sums,
)
from dgq.inference.geometry import ConvGeometry, Geometry, HasGeometry
from dgq.inference.input_quantizers import ChannelInput
from dgq.inference.layers import PackedLayer, dequantized, of_each, packed_codes
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.inference.stored_tensors import StoredTensors
from dgq.ops import int_conv2d, int_linear
from dgq.ops.cpu import pack_conv2d, pack_linear
from dgq.ops.reference import dense
from dgq.stock_state import LayerInPart, of_part

FOLDED_AT_ONCE = 2**18
"""Weights that are folded at a time."""


class FoldedWeight:
    """An int8 weight in the layout that the operators want; never changed, so copies share it.

    Args:
        tensor: as ``pack_linear`` and ``pack_conv2d`` return it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.tensor.device

    def __deepcopy__(self, memo: dict[int, Any]) -> "FoldedWeight":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a UNet that was prepared for a CPU is not pickled: load it where it runs")


class IntegerLayer(HasGeometry, LayerInPart, StoredTensors):
    """A linear or convolution layer on quantized tensors.

    What it saves is what the packed layer it was made from held: codes are taken out of the folded
    weight again, so that a weight is in memory once.

    Args:
        packed: the layer in its stored form.
        reader: the quantizer of its input, its own or its owner's.
        folded: the weight ``[out, n]``, as ``fold`` returns it.
    """

    scale: Tensor
    zero_point: Tensor
    exponent: Tensor | None
    bias: Tensor | None
    weight_scale: Tensor
    folded_bias: Tensor

    def __init__(self, packed: PackedLayer, reader: ChannelInput, folded: Tensor) -> None:
        super().__init__()
        self.geometry = packed.geometry
        self.settings = packed.settings
        self.input_quantizer = packed.input_quantizer
        self.activation_bits = packed.activation_bits
        for name in ("scale", "zero_point", "exponent", "bias"):
            self.store(name, getattr(packed, name))
        _, self._factor = reader.factors(self.geometry.in_channels)
        scale = packed.scale * 2.0 ** -largest_exponent(packed.exponent)
        self.register_buffer("weight_scale", scale, persistent=False)
        self.register_buffer("folded_bias", self.fold_bias(reader, folded), persistent=False)
        self.weight = FoldedWeight(laid_out(folded, self.geometry))

    def fold_bias(self, reader: ChannelInput, folded: Tensor) -> Tensor:
        """The bias of each step, without what zero points add: ``[steps, out]``, float32."""
        on_codes, _ = reader.factors(self.geometry.in_channels)
        zeros = zero_point_sums(folded, reader.zero_point * on_codes, self.geometry)
        bias = -(reader.scale[:, None].double() * self.weight_scale * zeros)
        return (bias if self.bias is None else bias + self.bias).float()

    def bias_of(self, quantized: QuantizedTensor) -> Tensor:
        """The bias for every row of the scales of what was quantized."""
        return self.folded_bias

    @property
    def weight_bits(self) -> int:
        """Bits of the codes."""
        return self.settings.n_bits

    def forward(
        self, x: Tensor | QuantizedTensor, quantized: QuantizedTensor | None = None
    ) -> Tensor:
        """What the stock layer computes; of a tensor it quantizes first, or of a quantized one."""
        x = x if quantized is None else quantized
        if not isinstance(self.geometry, ConvGeometry):
            return self.output_of(x if isinstance(x, QuantizedTensor) else self._codes(x))
        if isinstance(x, Tensor):
            x = self._codes(x.permute(0, 2, 3, 1), self.geometry.padding)
        return self.output_of(x).permute(0, 3, 1, 2)

    def output_of(self, quantized: QuantizedTensor) -> Tensor:
        """What the layer computes of a quantized tensor, ``[batch, ..., out]``."""
        return self.product(quantized, self.bias_of(quantized), quantized.dtype)

    def product(self, quantized: QuantizedTensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """The integer product, scaled, with a bias for every row of the scales."""
        arguments = (quantized.codes, self.weight.tensor, self.weight_scale, quantized.scale)
        conv = self.geometry
        if not isinstance(conv, ConvGeometry):
            return int_linear(*arguments, bias, quantized.step, dtype)
        return int_conv2d(
            *(*arguments, bias, quantized.step),
            *(conv.kernel, conv.stride, conv.dilation, conv.groups, dtype),
        )

    def _codes(self, x: Tensor, padding: tuple[int, ...] = ()) -> QuantizedTensor:
        assert isinstance(self.input_quantizer, ChannelInput)
        return self.input_quantizer.codes(x, padding)

    def extra_repr(self) -> str:
        """Shown by ``print(unet)``."""
        return f"{self.geometry}, W{self.weight_bits}A{self.activation_bits}, integer"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not of_part(prefix):
            destination[prefix + "codes"] = self.codes()

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The weight, dequantized, float32, and the bias."""
        return dequantized(self, self.codes()), self.bias

    def codes(self) -> Tensor:
        """The packed codes ``[out, ...]`` that the weight was folded from."""
        folded = dense(self.weight.tensor).reshape(self.geometry.out_channels, -1).to(torch.int32)
        exponent = None
        if self.exponent is not None:
            exponent = of_each(self.exponent, self.settings.group_size, self.fan_in)
        factor = weight_factors(self._factor, self.geometry)
        factor = factor * group_factors(exponent, largest_exponent(self.exponent))
        return packed_codes(folded // factor, self.zero_point, self.weight_bits)

    def unfolded(self) -> PackedLayer:
        """The layer in its stored form, which runs in floating point on any device."""
        has_bias = self.bias is not None
        geometry, quantizer, bits = self.geometry, self.input_quantizer, self.activation_bits
        with torch.device("meta"):
            packed = PackedLayer(
                geometry, quantizer, bits, weights=self.settings, has_bias=has_bias
            )
        packed.store("codes", self.codes().contiguous())
        for name, tensor in self.stored.items():
            packed.store(name, tensor)
        return packed.train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if moves(fn, self.scale):
            raise DGQError(
                "a layer that multiplies integers on a CPU cannot be moved alone: move the whole "
                "UNet, or let it run in floating point first: dgq.prepare_(unet, 'float')"
            )
        return super()._apply(fn, recurse)


def fold(packed: PackedLayer, factor: Tensor) -> Tensor | None:
    """The int8 weight ``[out, n]`` times all factors; None where it does not fit.

    Args:
        packed: the layer.
        factor: ``[channels]``, of the weights that meet each input channel.
    """
    n_rows, at_once = packed.geometry.out_channels, max(1, FOLDED_AT_ONCE // packed.fan_in)
    folded = torch.empty(n_rows, packed.fan_in, dtype=torch.int8)
    by_channel = weight_factors(factor, packed.geometry)
    largest = largest_exponent(packed.exponent)
    # Some rows at a time: what is made on the way takes several bytes for each weight.
    for first in range(0, n_rows, at_once):
        rows = slice(first, first + at_once)
        on_inputs = by_channel[rows] if by_channel.shape[0] > 1 else by_channel
        on_groups = group_factors(packed.group_exponents(rows), largest)
        part = packed.centred_codes(rows).to(torch.int32) * on_inputs * on_groups
        if not fits(part, packed.fan_in):
            return None
        folded[rows] = part.to(torch.int8)
    return folded


def laid_out(folded: Tensor, geometry: Geometry) -> Tensor:
    """An int8 weight ``[out, n]`` as the operators want it."""
    if isinstance(geometry, ConvGeometry):
        weight = folded.view(geometry.weight_shape)
        return pack_conv2d(weight, list(geometry.stride), list(geometry.dilation), geometry.groups)
    return pack_linear(folded)
