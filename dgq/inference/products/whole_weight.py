"""Weights with a byte for each element, which the operators of every device multiply."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.products.products import ProductWeight
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import int_conv2d, int_linear, int_linear_gated
from dgq.unet.geometry import ConvGeometry, Geometry


class WholeWeight(ProductWeight):
    """A weight with a byte for each element, laid out as the subclass says.

    Args:
        tensor: as the operators of the device read it.
        factor: factor of the weights that meet each input channel, ``[in]``.
        geometry: of the layer.
    """

    def __init__(self, tensor: Tensor, factor: Tensor, geometry: Geometry) -> None:
        self.tensor = tensor
        self._factor = factor.to(torch.int16)
        self.geometry = geometry

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The weight, and what its codes were multiplied by."""
        return {"weight": self.tensor, "factor": self._factor}

    @property
    def factor(self) -> Tensor:
        """Factor of the weights that meet each input channel, int16 ``[in]``."""
        return self._factor

    def multiply(self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """The layer's output, by its operator."""
        operands = (x.codes, self.tensor, weight_scale, x.scale, bias, x.step)
        return multiply_whole(operands, self.geometry, x.dtype)


class PlainWeight(WholeWeight):
    """A weight in the order that our own kernels read: channels last.

    Args:
        folded: int8 ``[out, n]``.
        factor: factor of the weights that meet each input channel, ``[in]``.
        geometry: of the layer.
    """

    def __init__(self, folded: Tensor, factor: Tensor, geometry: Geometry) -> None:
        tensor = folded
        if isinstance(geometry, ConvGeometry):
            images = folded.view(geometry.weight_shape)
            tensor = images.contiguous(memory_format=torch.channels_last)
        super().__init__(tensor, factor, geometry)

    def whole_numbers(self) -> Tensor:
        """The weight in the order of the stored codes."""
        return self.tensor.reshape(self.geometry.out_channels, -1)


def multiply_whole(operands: tuple[Tensor, ...], geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """Call the operator of a layer that has a byte for each weight."""
    output: Tensor
    if isinstance(geometry, ConvGeometry):
        window = (geometry.kernel, geometry.stride, geometry.dilation, geometry.groups)
        output = int_conv2d(*operands, *window, dtype)
    else:
        output = int_linear(*operands, dtype)
    return output


def gated(
    x: QuantizedTensor, weight: Tensor, weight_scale: Tensor, bias: Tensor, reader: ChannelInput
) -> QuantizedTensor:
    """``ProductWeight.multiply_gated`` in one kernel, with an int8 weight of ``[2 out, in]``."""
    operands = (x.codes, weight, weight_scale, x.scale, bias, x.step)
    codes = int_linear_gated(*operands, *reader.tables, reader.largest, reader.offset)
    return QuantizedTensor(codes, reader.scale, x.step, x.dtype)
