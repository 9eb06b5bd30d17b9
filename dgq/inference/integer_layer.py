"""A quantized layer that multiplies integers: one product of 8-bit codes with an 8-bit weight."""

from functools import partial

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.folding import (
    FOLDED_AT_ONCE,
    fits,
    largest_exponent,
    zero_point_sums,
)
from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import PackedLayer
from dgq.inference.products.products import Products, ProductWeight
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.math.exponents import OPERAND_BITS
from dgq.math.multiples import of_weights
from dgq.unet.geometry import ConvGeometry


class IntegerLayer(KernelLayer[ProductWeight]):
    """A linear or convolution layer on quantized tensors.

    Args:
        packed: the layer in its stored form.
        reader: the quantizer of its input, its own or its owner's.
        folded: the weight ``[out, n]``, as ``fold`` returns it.
        products: integer products of its device.
    """

    folded_bias: Tensor

    def __init__(
        self, packed: PackedLayer, reader: ChannelInput, folded: Tensor, products: Products
    ) -> None:
        _, factor = reader.factors(packed.geometry.in_channels)
        super().__init__(packed, products.weight(packed, folded, factor))
        self.offset = reader.offset or 0
        self.register_buffer("folded_bias", self.fold_bias(reader, folded), persistent=False)

    def fold_bias(self, reader: ChannelInput, folded: Tensor) -> Tensor:
        """The bias of each step less the contribution of zero points: ``[steps, out]``, float32."""
        on_codes, _ = reader.factors(self.geometry.in_channels)
        zero_point = reader.zero_point * on_codes - self.offset
        zeros = zero_point_sums(folded, zero_point, self.geometry)
        bias = -(reader.scale[:, None].double() * self.weight_scale * zeros)
        return (bias if self.bias is None else bias + self.bias).float()

    def bias_of(self, quantized: QuantizedTensor) -> Tensor:
        """The bias for each row of the input's scales."""
        return self.folded_bias

    def forward(
        self,
        x: Tensor | QuantizedTensor,
        quantized: QuantizedTensor | None = None,
        of: Tensor | None = None,
    ) -> Tensor:
        """The stock layer's output; an input that is not quantized yet is quantized first."""
        if quantized is None and self.projection is not None and isinstance(x, Tensor):
            return self.projection.alone(partial(IntegerLayer.forward, self), x)
        x = self.given(x, quantized, of)
        if not isinstance(self.geometry, ConvGeometry):
            return self.output_of(x if isinstance(x, QuantizedTensor) else self._codes(x))
        if isinstance(x, Tensor):
            x = self._codes(x.permute(0, 2, 3, 1), self.geometry.padding)
        return self.output_of(x).permute(0, 3, 1, 2)

    def output_of(self, quantized: QuantizedTensor) -> Tensor:
        """The layer's output for a quantized tensor, ``[batch, ..., out]``."""
        return self.product(quantized, self.bias_of(quantized), quantized.dtype)

    def gated(self, x: Tensor, reader: ChannelInput) -> QuantizedTensor:
        """Quantized ``value * gelu(gate)`` of the two halves of the layer's output.

        Args:
            x: ``[batch, ..., in]``.
            reader: the input quantizer of the layer that reads the result.
        """
        quantized = self._codes(x)
        tables = (self.weight_scale, self.bias_of(quantized))
        return self.kernel_weight.multiply_gated(quantized, *tables, reader)

    def product(self, quantized: QuantizedTensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """The integer product, scaled, with a bias for every row of the scales."""
        return self.kernel_weight.multiply(quantized._replace(dtype=dtype), self.weight_scale, bias)

    def _codes(self, x: Tensor, padding: tuple[int, ...] = ()) -> QuantizedTensor:
        assert isinstance(self.input_quantizer, ChannelInput)
        return self.input_quantizer.codes(x, padding)

    def extra_repr(self) -> str:
        """Shown by ``print(unet)``."""
        return f"{super().extra_repr()}, integer"


def fold(packed: PackedLayer, factor: Tensor) -> Tensor | None:
    """The int8 weight ``[out, n]`` times all factors; None if it does not fit into int8.

    Args:
        packed: the layer.
        factor: ``[channels]``, the factor of the weights that meet each input channel.
    """
    n_rows, at_once = packed.geometry.out_channels, max(1, FOLDED_AT_ONCE // packed.fan_in)
    folded = packed.codes.new_empty((n_rows, packed.fan_in), dtype=torch.int8)
    largest = largest_exponent(packed.exponent)
    dtype = _dtype_of_products(packed.weight_bits, int(factor.max()), largest)
    by_channel = of_weights(factor, packed.geometry.weight_shape).to(dtype)
    # Some rows at a time: intermediate results take several bytes per weight.
    for first in range(0, n_rows, at_once):
        rows = slice(first, first + at_once)
        on_inputs = by_channel[rows] if by_channel.shape[0] > 1 else by_channel
        part = packed.centred_codes(rows).to(dtype).mul_(on_inputs)
        part = part.mul_(packed.group_factors(largest, dtype, rows))
        if not fits(part, packed.fan_in):
            return None
        folded[rows] = part
    return folded


def _dtype_of_products(n_bits: int, largest_factor: int, largest_exponent: int) -> torch.dtype:
    """The smallest type that is certain to hold weights times all factors."""
    bound = 2**n_bits * largest_factor * 2 ** min(largest_exponent, OPERAND_BITS)
    return torch.int16 if bound <= 2**15 else torch.int32
