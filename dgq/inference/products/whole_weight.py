"""Weights of a byte for each element, which the operators of every device multiply."""

import torch
from torch import Tensor

from dgq.inference.geometry import ConvGeometry, Geometry
from dgq.inference.products.products import ProductWeight
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import int_conv2d, int_linear


class WholeWeight(ProductWeight):
    """Subclasses say how a device wants its bytes laid out.

    Args:
        tensor: as the operators of the device read it.
        geometry: of the layer.
    """

    def __init__(self, tensor: Tensor, geometry: Geometry) -> None:
        self.tensor = tensor
        self.geometry = geometry

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The weight."""
        return (self.tensor,)

    def multiply(self, x: QuantizedTensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
        """By the operator of the layer."""
        operands = (x.codes, self.tensor, weight_scale, x.scale, bias, x.step)
        return multiply_whole(operands, self.geometry, x.dtype)


class PlainWeight(WholeWeight):
    """In the order in which our own kernels multiply it: channels last.

    Args:
        folded: int8 ``[out, n]``.
        geometry: of the layer.
    """

    def __init__(self, folded: Tensor, geometry: Geometry) -> None:
        tensor = folded
        if isinstance(geometry, ConvGeometry):
            images = folded.view(geometry.weight_shape)
            tensor = images.contiguous(memory_format=torch.channels_last)
        super().__init__(tensor, geometry)

    def whole_numbers(self) -> Tensor:
        """In the order of the stored codes."""
        return self.tensor.reshape(self.geometry.out_channels, -1)


def multiply_whole(operands: tuple[Tensor, ...], geometry: Geometry, dtype: torch.dtype) -> Tensor:
    """The operator of a layer with a weight of bytes."""
    output: Tensor
    if isinstance(geometry, ConvGeometry):
        window = (geometry.kernel, geometry.stride, geometry.dilation, geometry.groups)
        output = int_conv2d(*operands, *window, dtype)
    else:
        output = int_linear(*operands, dtype)
    return output
