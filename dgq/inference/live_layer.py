"""An integer layer whose input has a scale and zero points for each sample.

The contribution of zero points to an output is then no fixed table, but the product of a row (or
an image as large as the kernel) of zeros, by the same operator::

    y[sample] = s[sample] sw (sum_c q' v'  -  sum_c z'[sample] v') + bias

A table of the weight's sums for each input channel would be a copy of every linear weight.
"""

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.unet.geometry import ConvGeometry


class LiveLayer(IntegerLayer):
    """A linear or convolution layer that reads what a ``LiveInput`` quantized."""

    def fold_bias(self, reader: ChannelInput, folded: Tensor) -> Tensor:
        """The bias alone, ``[1, out]``: zero points are not known yet."""
        bias = torch.zeros_like(self.weight_scale) if self.bias is None else self.bias
        return bias[None].float()

    def bias_of(self, quantized: QuantizedTensor) -> Tensor:
        """The bias of each sample less the contribution of its zero points: ``[batch, out]``."""
        return self.folded_bias - self.of_zeros(quantized)

    def of_zeros(self, quantized: QuantizedTensor) -> Tensor:
        """What the zero points of each sample add to its outputs: ``[batch, out]``, float32."""
        codes, conv = quantized.of_zero, self.geometry
        assert codes is not None
        if isinstance(conv, ConvGeometry):
            sizes = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel, strict=True)]
            codes = codes[:, None, None].expand(-1, *sizes, -1).contiguous()
        none = torch.zeros_like(self.folded_bias)
        return self.product(quantized._replace(codes=codes), none, torch.float32).flatten(1)
