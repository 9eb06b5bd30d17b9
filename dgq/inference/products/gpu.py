"""Integer products on a GPU: s8 codes, 4-bit weights that stay packed in memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.folding import fits, group_factors, largest_exponent
from dgq.inference.geometry import ConvGeometry, Geometry
from dgq.inference.layers import PackedLayer
from dgq.inference.products.products import AloneWeight, Products, ProductWeight
from dgq.inference.products.whole_weight import WholeWeight, multiply_whole
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import (
    conv2d_packed,
    gpu,
    int_conv2d_packed,
    int_linear_gated,
    joint_unpacking,
    pad,
    quantize,
    reference,
    residual_fusion,
    unpack,
)
from dgq.ops.packed_weight import PackedWeight, multiplied, packed_for_kernels

PACKED_BITS = 4
"""Up to which two codes share a byte."""

LARGEST_SIGNED = 127

WINDOW_OF_POINT = ((1, 1), (1, 1), (0, 0), (1, 1), 1)
"""Kernel, stride, padding, dilation and groups of a linear layer."""


class ByteWeight(WholeWeight):
    """A byte for each weight, in the order in which kernels multiply them: channels last.

    Args:
        folded: int8 ``[out, n]``.
        geometry: of the layer.
        copies_boxes: whether the device has a copy engine, and kernels for it.
    """

    def __init__(self, folded: Tensor, geometry: Geometry, copies_boxes: bool = False) -> None:
        self.copies_boxes = copies_boxes
        tensor = folded
        if isinstance(geometry, ConvGeometry):
            images = folded.view(geometry.weight_shape)
            tensor = images.contiguous(memory_format=torch.channels_last)
        super().__init__(tensor, geometry)

    def multiply_gated(
        self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
    ) -> QuantizedTensor:
        """In one kernel, where the device has it and all samples are at one step."""
        if not (self.copies_boxes and is_at_one_step(x)):
            return super().multiply_gated(x, weight_scale, bias, reader)
        return gated(x, self.tensor, weight_scale, bias, reader)

    def whole_numbers(self) -> Tensor:
        """In the order of the stored codes."""
        return self.tensor.reshape(self.geometry.out_channels, -1)


class NibbleWeight(AloneWeight):
    """Two weights in a byte; kernels multiply them by their factors as they unpack them.

    Args:
        layer: with codes of at most 4 bits.
        factor: of each input channel, or None for 1.
        copies_boxes: whether the device has a copy engine, and kernels for it.
    """

    def __init__(
        self, layer: PackedLayer, factor: Tensor | None, copies_boxes: bool = False
    ) -> None:
        self.geometry, self.copies_boxes = layer.geometry, copies_boxes
        exponent, largest = layer.exponent, largest_exponent(layer.exponent)
        shift = None if exponent is None or largest == 0 else largest - exponent.to(torch.int16)
        self.packed = PackedWeight(
            packed_for_kernels(layer.codes, self.channels, self.taps, layer.weight_bits),
            layer.zero_point.to(torch.int8),
            None if factor is None or bool((factor == 1).all()) else factor.to(torch.int8),
            None if shift is None else shift.to(torch.uint8),
            layer.settings.group_size,
        )

    @property
    def channels(self) -> int:
        """That an output channel sees."""
        return self.geometry.weight_shape[1]

    @property
    def taps(self) -> int:
        """Of the window."""
        return self.window[0][0] * self.window[0][1]

    @property
    def window(
        self,
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], int]:
        """Kernel, stride, padding, dilation and groups."""
        conv = self.geometry
        if not isinstance(conv, ConvGeometry):
            return WINDOW_OF_POINT
        return conv.kernel, conv.stride, conv.padding, conv.dilation, conv.groups

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Codes, zero points, factors and shifts."""
        return tuple(tensor for tensor in self.packed[:4] if tensor is not None)

    def multiply(self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """By the kernel of packed weights.

        In a compiled graph they are unpacked by an operator of its own, which is merged with those
        of other layers (``joint_unpacking``).
        """
        kernel, stride, _, dilation, groups = self.window
        if self.copies_boxes and groups == 1 and torch.compiler.is_compiling():
            operands = (x.codes, self._unpacked(), weight_scale, x.scale, bias, x.step)
            return multiply_whole(operands, self.geometry, x.dtype)
        shape = (kernel, stride, dilation, groups)
        tables = (weight_scale, x.scale, bias, x.step)
        output: Tensor = int_conv2d_packed(x.codes, *self.packed, *tables, *shape, x.dtype)
        return output

    def multiply_gated(
        self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
    ) -> QuantizedTensor:
        """In one kernel once the weight is unpacked, where all samples are at one step."""
        if not (self.copies_boxes and is_at_one_step(x)):
            return super().multiply_gated(x, weight_scale, bias, reader)
        return gated(x, self._unpacked(), weight_scale, bias, reader)

    def _unpacked(self) -> Tensor:
        """As ``ByteWeight`` holds it."""
        whole: Tensor = unpack(*self.packed, self.channels)
        if not isinstance(self.geometry, ConvGeometry):
            return whole.flatten(1)
        return whole.unflatten(1, self.geometry.kernel).permute(0, 3, 1, 2)

    def multiply_float(self, x: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """By the kernel of packed weights and activations in floating point."""
        codes, zero_point, _, shift, group_size = self.packed
        weight = (codes, zero_point, shift, group_size, weight_scale, bias)
        output: Tensor = conv2d_packed(x, *weight, *self.window)
        return output

    def whole_numbers(self) -> Tensor:
        """Unpacked."""
        return multiplied(self.packed, self.channels, self.window[-1]).flatten(1)


def is_at_one_step(x: QuantizedTensor) -> bool:
    """Whether all samples are at the same step of the sampler."""
    return x.step.shape[0] == 1


def gated(
    x: QuantizedTensor, weight: Tensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
) -> QuantizedTensor:
    """``ProductWeight.multiply_gated`` in one kernel, with an int8 weight ``[2 out, in]``."""
    operands = (x.codes, weight, weight_scale, x.scale, bias, x.step)
    codes = int_linear_gated(*operands, *reader.tables, reader.largest, reader.offset)
    return QuantizedTensor(codes, reader.scale, x.step, x.dtype)


class GpuProducts(Products):
    """By Triton's kernels, attention by torch's fused ones.

    Args:
        device: of the UNet.
    """

    device = "GPU"

    def __init__(self, device: torch.device) -> None:
        self.place = device

    def obstacle(self) -> str | None:
        """None where the kernels run and are exact."""
        reason = gpu.why_not(self.place)
        if reason is None:
            residual_fusion.register()
            joint_unpacking.register()
        return reason

    def features(self) -> tuple[str, ...]:
        """Its name, and what it can."""
        return gpu.features(self.place)

    @property
    def copies_boxes(self) -> bool:
        """Whether the device has a copy engine, and kernels for it."""
        return self.place.type == "cuda" and gpu.has_copy_engine(self.place)

    def best_dtype(self) -> torch.dtype:
        """What tensor cores multiply, with the range of float32."""
        return torch.bfloat16

    def attention(self, dtype: torch.dtype) -> tuple[str, Callable[..., Tensor]]:
        """Torch's."""
        return "torch", reference.attention

    def offset(self, largest: int) -> int | None:
        """Tensor cores multiply codes with a sign."""
        return 0 if largest <= LARGEST_SIGNED else LARGEST_SIGNED + 1

    def quantize(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor, Tensor, Tensor],
        step: Tensor,
        largest: int,
        padding: list[int],
        offset: int | None,
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """In one pass; under ``torch.compile`` in plain torch, fused with what precedes it.

        There padding is a pass of its own: a compiler would not fuse across it, and write and read
        a float32 for each element instead.
        """
        if not torch.compiler.is_compiling():
            codes: Tensor = quantize(x, *tables, step, largest, padding, offset)
            return codes
        codes = reference.quantize(x, *tables, step, largest, [], offset)
        if not any(padding):
            return codes
        nothing = x.new_zeros(step.shape[0], x.shape[-1])
        of_zero = reference.quantize(nothing, *tables, step, largest, [], offset)
        padded: Tensor = pad(codes, of_zero, padding)
        return padded

    def weight(self, layer: PackedLayer, folded: Tensor, factor: Tensor) -> ProductWeight:
        """Packed up to 4 bits, else folded."""
        if layer.weight_bits <= PACKED_BITS:
            return NibbleWeight(layer, factor, self.copies_boxes)
        return ByteWeight(folded, layer.geometry, self.copies_boxes)

    def weight_alone(self, layer: PackedLayer) -> AloneWeight | None:
        """Packed, where it has at most 4 bits and its exponents fit into bytes."""
        if layer.weight_bits > PACKED_BITS:
            return None
        factors = group_factors(layer.group_exponents(), largest_exponent(layer.exponent))
        whole = layer.centred_codes().to(torch.int32) * factors
        return NibbleWeight(layer, None) if fits(whole, 1) else None
