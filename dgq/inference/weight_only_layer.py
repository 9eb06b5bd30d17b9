"""A layer with 4-bit weights and activations in floating point: unpacked as it is multiplied."""

from functools import partial

import torch
from torch import Tensor

from dgq.inference.kernel_layer import KernelLayer
from dgq.inference.layers import PackedLayer
from dgq.inference.products.products import AloneWeight
from dgq.unet.derivatives import may_need_derivative
from dgq.unet.geometry import ConvGeometry

MULTIPLIED = (torch.bfloat16, torch.float16)
"""Dtypes that the kernels take."""


class WeightOnlyLayer(KernelLayer[AloneWeight]):
    """A linear or convolution layer whose weight alone is quantized.

    Args:
        packed: the layer in its stored form.
        weight: as the kernels read it.
    """

    float_bias: Tensor

    def __init__(self, packed: PackedLayer, weight: AloneWeight) -> None:
        super().__init__(packed, weight)
        bias = torch.zeros_like(packed.scale) if packed.bias is None else packed.bias
        self.register_buffer("float_bias", bias.detach(), persistent=False)

    def forward(
        self, x: Tensor, quantized: Tensor | None = None, of: Tensor | None = None
    ) -> Tensor:
        """The stock layer's output; by the dequantized weight where no kernel applies."""
        if quantized is None and self.projection is not None:
            return self.projection.alone(partial(WeightOnlyLayer.forward, self), x)
        x = self.given(x, quantized, of)
        if x.dtype not in MULTIPLIED or may_need_derivative(x):
            weight, bias = self.operands()
            bias = None if bias is None else bias.to(x.dtype)
            return self.geometry.apply(x, weight.to(x.dtype), bias)
        if not isinstance(self.geometry, ConvGeometry):
            return self.kernel_weight.multiply_float(x, self.weight_scale, self.float_bias)
        image = x.permute(0, 2, 3, 1)
        output = self.kernel_weight.multiply_float(image, self.weight_scale, self.float_bias)
        return output.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Shown by ``print(unet)``."""
        return f"{super().extra_repr()}, unpacked as it is multiplied"
