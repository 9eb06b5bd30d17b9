"""Weights as the kernels of a GPU read them: a byte each, or two codes of 4 bits in a byte."""

import threading
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.folding import largest_exponent
from dgq.inference.layers import PackedLayer
from dgq.inference.products.products import AloneWeight, ProductWeight
from dgq.inference.products.whole_weight import PlainWeight, gated, multiply_whole
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import conv2d_packed, int_conv2d_packed, unpack
from dgq.ops.packed_weight import PackedWeight, multiplied, packed_for_kernels, stacked
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry

WINDOW_OF_POINT = ((1, 1), (1, 1), (0, 0), (1, 1), 1)
"""Kernel, stride, padding, dilation and groups of a linear layer."""


class ByteWeight(PlainWeight):
    """A byte for each weight.

    Args:
        folded: int8 ``[out, n]``.
        factor: factor of the weights that meet each input channel, ``[in]``.
        geometry: of the layer.
        copies_boxes: whether the device has a copy engine, and kernels for it.
    """

    def __init__(
        self, folded: Tensor, factor: Tensor, geometry: Geometry, copies_boxes: bool = False
    ) -> None:
        self.copies_boxes = copies_boxes
        super().__init__(folded, factor, geometry)

    def multiply_gated(
        self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
    ) -> QuantizedTensor:
        """Compute in one kernel if the device has it and all samples are at one step."""
        if not (self.copies_boxes and is_at_one_step(x)):
            return super().multiply_gated(x, weight_scale, bias, reader)
        return gated(x, self.tensor, weight_scale, bias, reader)

    def stacked(self, others: Sequence[ProductWeight]) -> ProductWeight | None:
        """The stacked weight if all are ``ByteWeight``, else None."""
        tensors = [other.tensor for other in others if isinstance(other, ByteWeight)]
        return self._of(torch.cat([self.tensor, *tensors])) if len(tensors) == len(others) else None

    def rows(self, rows: slice) -> ProductWeight:
        """The weight of some output channels: a view of the bytes."""
        return self._of(self.tensor[rows])

    def _of(self, tensor: Tensor) -> ProductWeight:
        geometry = LinearGeometry(tensor.shape[1], tensor.shape[0])
        return ByteWeight(tensor, self.factor, geometry, self.copies_boxes)


class NibbleWeight(AloneWeight):
    """Two weights in a byte; kernels multiply them by their factors as they unpack them.

    A weight that is unpacked together with others (``dgq.inference.weight_unit``) is multiplied as
    bytes.

    Args:
        packed: codes of at most 4 bits.
        geometry: of the layer.
        copies_boxes: whether the device has a copy engine, and kernels for it.
    """

    def __init__(
        self, packed: PackedWeight, geometry: Geometry, copies_boxes: bool = False
    ) -> None:
        self.packed, self.geometry, self.copies_boxes = packed, geometry, copies_boxes
        self._unpacked: tuple[int, Tensor] | None = None

    @property
    def channels(self) -> int:
        """Number of input channels that an output channel reads."""
        return self.geometry.weight_shape[1]

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
    def tensors(self) -> Mapping[str, Tensor]:
        """Codes, zero points, factors and shifts."""
        named = self.packed._asdict().items()
        return {name: tensor for name, tensor in named if isinstance(tensor, Tensor)}

    @property
    def unpacked(self) -> Tensor | None:
        """The weight as operators of byte weights read it; None if this thread has not unpacked it.

        Another thread's copy may still be in the making, in a stream of its own.
        """
        held = self._unpacked
        if held is None:
            return None
        # A compiled graph has its own copy: nothing else sees what it stores here.
        own = torch.compiler.is_compiling() or held[0] == threading.get_ident()
        return held[1] if own else None

    @unpacked.setter
    def unpacked(self, tensor: Tensor | None) -> None:
        thread = 0 if torch.compiler.is_compiling() else threading.get_ident()
        self._unpacked = None if tensor is None else (thread, tensor)

    @property
    def factor(self) -> Tensor | None:
        """Factor of the weights that meet each input channel, int8 ``[in]``; None for 1."""
        return self.packed.factor

    @property
    def shift(self) -> Tensor | None:
        """Shift of each group of inputs, uint8 ``[out, groups]``; None for 0."""
        return self.packed.shift

    def multiply(self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """The output, by the kernel of packed weights or that of byte weights."""
        whole = self.unpacked
        if whole is not None:
            operands = (x.codes, whole, weight_scale, x.scale, bias, x.step)
            return multiply_whole(operands, self.geometry, x.dtype)
        kernel, stride, _, dilation, groups = self.window
        shape = (kernel, stride, dilation, groups)
        tables = (weight_scale, x.scale, bias, x.step)
        output: Tensor = int_conv2d_packed(x.codes, *self.packed, *tables, *shape, x.dtype)
        return output

    def multiply_gated(
        self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
    ) -> QuantizedTensor:
        """Compute in one kernel once the weight is unpacked, if all samples are at one step."""
        if not (self.copies_boxes and is_at_one_step(x)):
            return super().multiply_gated(x, weight_scale, bias, reader)
        whole = self.unpacked
        if whole is None:
            whole = unpack(*self.packed, self.channels).flatten(1)
        return gated(x, whole, weight_scale, bias, reader)

    def multiply_float(self, x: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """The output, by the kernel of packed weights with floating-point activations."""
        codes, zero_point, _, shift, group_size = self.packed
        weight = (codes, zero_point, shift, group_size, weight_scale, bias)
        output: Tensor = conv2d_packed(x, *weight, *self.window)
        return output

    def whole_numbers(self) -> Tensor:
        """The unpacked weight."""
        return multiplied(self.packed, self.channels, self.window[-1]).flatten(1)

    def stacked(self, others: Sequence[ProductWeight]) -> ProductWeight | None:
        """The stacked weight if all are packed, with groups of the same size; else None."""
        weights = [other.packed for other in others if isinstance(other, NibbleWeight)]
        packed = stacked([self.packed, *weights]) if len(weights) == len(others) else None
        return None if packed is None else self._of(packed)

    def rows(self, rows: slice) -> ProductWeight:
        """The weight of some output channels: views of the codes, zero points and shifts."""
        return self._of(self.packed.rows(rows))

    def _of(self, packed: PackedWeight) -> ProductWeight:
        return NibbleWeight(
            packed, LinearGeometry(self.channels, packed.codes.shape[0]), self.copies_boxes
        )


def nibbles_of(layer: PackedLayer, factor: Tensor | None) -> PackedWeight:
    """The weight of a layer with codes of at most 4 bits, as kernels read it.

    Args:
        layer: in its stored form.
        factor: factor of each input channel, or None for 1.
    """
    channels, *kernel = layer.geometry.weight_shape[1:]
    exponent, largest = layer.exponent, largest_exponent(layer.exponent)
    shift = None if exponent is None or largest == 0 else largest - exponent.to(torch.int16)
    return PackedWeight(
        packed_for_kernels(layer.codes, channels, prod(kernel), layer.weight_bits),
        layer.zero_point.to(torch.int8),
        None if factor is None or bool((factor == 1).all()) else factor.to(torch.int8),
        None if shift is None else shift.to(torch.uint8),
        layer.settings.group_size,
    )


def is_at_one_step(x: QuantizedTensor) -> bool:
    """Whether all samples are at the same step of the sampler."""
    return x.step.shape[0] == 1
