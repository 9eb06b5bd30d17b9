"""An integer layer that adds the effect of its input's change to its previous output.

A layer is linear: its output for ``x + d`` is its output for ``x`` plus one integer product of the
codes of ``d``.
"""

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.layers import PackedLayer
from dgq.inference.live_layer import LiveLayer
from dgq.inference.products.products import Products
from dgq.inference.quantized_tensor import OfSum, QuantizedTensor
from dgq.unet.geometry import ConvGeometry


class ResidualLayer(LiveLayer):
    """A linear or convolution layer that reads what a ``ResidualInput`` quantized.

    Args:
        packed: the layer in its stored form.
        reader: the quantizer of its input, its own or its owner's.
        folded: the weight ``[out, n]``, as ``fold`` returns it.
        products: of the device that it is on.
    """

    def __init__(
        self, packed: PackedLayer, reader: ChannelInput, folded: Tensor, products: Products
    ) -> None:
        super().__init__(packed, reader, folded, products)
        self.calls = reader.calls

    def output_of(self, quantized: QuantizedTensor) -> Tensor:
        """The layer's output for the quantized sum, ``[batch, ..., out]``."""
        of_sum, memory = quantized.of_sum, self.calls.memory
        assert of_sum is not None
        before = self._of_first(of_sum)
        if before is None and memory is not None:
            before = memory.output_of(self, of_sum.before)
        if before is None:
            # The quantizer was last read without this layer: by another one, or by a custom
            # attention processor that projects one by one.
            total = self._of_values(of_sum.total)
        else:
            total = before + self._without_bias(quantized)
        if memory is not None:
            memory.keep_output(self, of_sum.total, total)
        return (total + self.folded_bias[0]).to(quantized.dtype)

    def _of_first(self, of_sum: OfSum) -> Tensor | None:
        return None if of_sum.first is None else self._without_bias(of_sum.first)

    def _without_bias(self, quantized: QuantizedTensor) -> Tensor:
        """The integer product, scaled, without the bias: float32."""
        return self.product(quantized, -self.of_zeros(quantized), torch.float32)

    def _of_values(self, x: Tensor) -> Tensor:
        """The product in floating point, for a sum without padding."""
        weight, _ = self.operands()
        if not isinstance(self.geometry, ConvGeometry):
            return self.geometry.apply(x, weight, None)
        output = self.geometry.apply(x.permute(0, 3, 1, 2), weight, None)
        return output.permute(0, 2, 3, 1).contiguous()
