"""Quantized layers that run in floating point: on any device, with any grouping."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dgq.inference.input_quantizers import InputQuantizer
from dgq.inference.stored_tensors import LARGEST_SCALE, StoredTensors, is_scale
from dgq.math.dequantization import dequantize
from dgq.math.exponents import OPERAND_BITS
from dgq.math.multiples import of_weights
from dgq.math.packing import pack_codes, packed_width, unpack_codes
from dgq.settings import FLOAT_BITS, WeightSettings
from dgq.unet.geometry import Geometry, HasGeometry
from dgq.unet.stock_state import LayerInPart

ALL = slice(None)
"""All output channels."""

STORED_AS = {"codes": torch.uint8, "exponent": torch.uint8, "multiple": torch.int16}
"""Tensors of a packed layer that are not float32."""


class FrozenLayer(HasGeometry, LayerInPart, StoredTensors):
    """A layer that reads quantized activations; it is neither ``nn.Linear`` nor ``nn.Conv2d``.

    Args:
        geometry: kind and sizes of the layer.
        input_quantizer: None if the owner quantizes for several layers, or the input stays as it
            is.
        activation_bits: bits of its input, for counting bit operations.
    """

    bias: Tensor | None

    def __init__(
        self, geometry: Geometry, input_quantizer: InputQuantizer | None, activation_bits: int
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.input_quantizer = input_quantizer
        self.activation_bits = activation_bits

    @property
    def weight_bits(self) -> int:
        """Bits of the weight, FLOAT_BITS in floating point."""
        return FLOAT_BITS

    def forward(
        self, x: Tensor, quantized: Tensor | None = None, of: Tensor | None = None
    ) -> Tensor:
        """The stock layer's output, computed with quantized operands."""
        if quantized is None and self.projection is not None:
            return self.projection.alone(partial(FrozenLayer.forward, self), x)
        if quantized is None and self.input_quantizer is not None:
            x = self.input_quantizer(x)
        else:
            x = self.given(x, quantized, of)
        weight, bias = self.operands()
        return self.geometry.apply(
            x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        )

    @property
    def shape_of_bias(self) -> dict[str, tuple[int, ...]]:
        """The expected shape of the bias, by name; empty without a bias."""
        return {} if self.bias is None else {"bias": (self.geometry.out_channels,)}

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shown by ``print(unet)``."""
        return f"{self.geometry}, W{self.weight_bits}A{self.activation_bits}"


class FloatLayer(FrozenLayer):
    """A layer whose weight stays in floating point."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, *arguments: Any, has_bias: bool) -> None:
        super().__init__(*arguments)
        self.store("weight", torch.empty(self.geometry.weight_shape))
        self.store("bias", torch.empty(self.geometry.out_channels) if has_bias else None)

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are."""
        return self.weight, self.bias

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        shapes = {"weight": self.geometry.weight_shape} | self.shape_of_bias
        finite = all(bool(tensor.isfinite().all()) for tensor in self.stored.values())
        return wrong_shape(self, shapes) or (None if finite else "a weight is not finite")


class PackedLayer(FrozenLayer):
    """A layer whose weight is packed codes, dequantized at each call.

    ``weight[o, i] = scale[o] 2^-exponent[o, group of i] (codes[o, i] - zero_point[o])``, divided by
    the multiple of the input's channel where it was absorbed.

    Args:
        arguments: those of ``FrozenLayer``.
        weights: bits and groups.
        has_bias: whether the layer has a bias.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    exponent: Tensor | None
    multiple: Tensor | None
    bias: Tensor | None

    def __init__(self, *arguments: Any, weights: WeightSettings, has_bias: bool) -> None:
        super().__init__(*arguments)
        self.settings = weights
        for name, shape in self.shapes(has_bias).items():
            self.store(name, torch.empty(shape, dtype=STORED_AS.get(name, torch.float32)))
        for name in ("exponent", "multiple", "bias"):
            if not hasattr(self, name):
                self.store(name, None)

    @property
    def weight_bits(self) -> int:
        """Bits of the codes."""
        return self.settings.n_bits

    def shapes(self, has_bias: bool) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that is stored."""
        out = self.geometry.out_channels
        shapes: dict[str, tuple[int, ...]] = {"scale": (out,), "zero_point": (out,)}
        shapes["codes"] = (out, packed_width(self.fan_in, self.weight_bits))
        if self.settings.has_exponents:
            shapes["exponent"] = (out, -(-self.fan_in // self.settings.group_size))
        if self.settings.absorbs:
            shapes["multiple"] = (self.geometry.in_channels,)
        return shapes | ({"bias": (out,)} if has_bias else {})

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The dequantized weight, float32, and the bias."""
        return dequantized(self, self.codes, self.exponent), self.bias

    def centred_codes(self, rows: slice = ALL) -> Tensor:
        """``codes - zero_point`` of some output channels, int16 ``[rows, n]``."""
        codes = unpack_codes(self.codes[rows], self.weight_bits, self.fan_in)
        return codes.to(torch.int16).sub_(self.zero_point[rows].to(torch.int16)[:, None])

    def group_factors(self, largest: int, dtype: torch.dtype, rows: slice = ALL) -> Tensor | int:
        """``2^(largest - exponent)`` of each weight of some output channels, ``[rows, n]``.

        Powers above ``2^8`` are ``2^8``: times them, only zeros fit into s8.
        """
        if self.exponent is None:
            return 1
        factors = 1 << (largest - self.exponent[rows].to(torch.int32)).clamp(max=OPERAND_BITS)
        return of_each(factors.to(dtype), self.settings.group_size, self.fan_in)

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        expected = self.shapes(has_bias=self.bias is not None)
        return wrong_shape(self, expected) or self._problem_of_values()

    def _problem_of_values(self) -> str | None:
        largest = 2**self.weight_bits - 1
        if self.codes.dtype != torch.uint8 or self.scale.dtype != torch.float32:
            return "codes are not bytes, or scales not float32"
        if not is_scale(self.scale):
            return f"a scale of the weight is not a positive number below {LARGEST_SCALE:.0e}"
        zeros = self.zero_point
        if not bool(((zeros >= 0) & (zeros <= largest) & (zeros == zeros.round())).all()):
            return f"a zero point of the weight is not among the codes 0 to {largest}"
        if self.exponent is not None and self.exponent.dtype != torch.uint8:
            return "exponents are not bytes"
        if self.exponent is not None and int(self.exponent.max()) > self.settings.max_exponent:
            return f"an exponent of the weight is beyond {self.settings.max_exponent}"
        if self.multiple is not None and not is_multiple(self.multiple):
            return "an absorbed multiple is not a whole number from 1 to 256"
        if self.bias is not None and not bool(self.bias.isfinite().all()):
            return "a bias is not finite"
        return None  # any byte is a valid packed code

    def settle_(self) -> None:
        """Repack without gaps the codes of earlier files, which gave each half a byte or a byte."""
        before = 4 if self.weight_bits <= 4 else 8
        if before == self.weight_bits or self.codes.dtype != torch.uint8:
            return
        if self.codes.shape[1:] == (packed_width(self.fan_in, before),):
            codes = unpack_codes(self.codes, before, self.fan_in)
            if int(codes.max()) < 2**self.weight_bits:  # others stay as they are, and are refused
                self.store("codes", pack_codes(codes, self.weight_bits))


def is_multiple(multiple: Tensor) -> bool:
    """Whether all values can be multiples that a weight absorbed."""
    in_range = (multiple >= 1) & (multiple <= 2**OPERAND_BITS)
    return multiple.dtype == torch.int16 and bool(in_range.all())


def dequantized(layer: Any, codes: Tensor, exponent: Tensor | None) -> Tensor:
    """The weight ``[out, ...]`` that codes stand for, in a layer that holds their scales."""
    shape, multiple = layer.geometry.weight_shape, layer.multiple
    weight = dequantize(
        *(codes, layer.scale, layer.zero_point, layer.weight_bits, layer.fan_in),
        *(exponent, layer.settings.group_size),
        None if multiple is None else of_weights(multiple, shape),
    )
    return weight.view(shape)


def wrong_shape(module: nn.Module, expected: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which tensor of a module has another shape than expected, if any."""
    for name, shape in expected.items():
        found = tuple(getattr(module, name).shape)
        if found != shape:
            return f"{name} is {found}, expected {shape}"
    return None


def of_each(values: Tensor, group_size: int, n: int) -> Tensor:
    """Values of groups ``[rows, groups]`` for each of ``n`` weights, ``[rows, n]``."""
    return values.repeat_interleave(group_size, 1)[:, :n]


def packed_codes(centred: Tensor, zero_point: Tensor, n_bits: int) -> Tensor:
    """Inverse of ``PackedLayer.centred_codes``."""
    return pack_codes(centred + zero_point.to(centred.dtype)[:, None], n_bits)
