"""An integer layer whose input has a scale and zero points for each sample.

What zero points add to an output is no table then: it is the product of a row (an image as large
as the kernel) of zeros, by the same operator::

    y[sample] = s[sample] sw (sum_c q' v'  -  sum_c z'[sample] v') + bias

A table of the weight's sums for each input channel would be a copy of every linear weight.
"""

import torch
from torch import Tensor

from dgq.inference.geometry import ConvGeometry
from dgq.inference.input_quantizers import ChannelInput
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import int_conv2d, int_linear


class LiveLayer(IntegerLayer):
    """A linear or convolution layer that reads what a ``LiveInput`` quantized."""

    def fold_bias(self, reader: ChannelInput, folded: Tensor) -> Tensor:
        """The bias alone, ``[1, out]``: zero points are not known yet."""
        bias = torch.zeros(self.geometry.out_channels) if self.bias is None else self.bias
        return bias[None].float()

    def bias_of(self, quantized: QuantizedTensor) -> Tensor:
        """The bias of each sample, without what its zero points add: ``[batch, out]``."""
        assert quantized.of_zero is not None
        return self.folded_bias - self._of_zeros(quantized.of_zero, quantized)

    def _of_zeros(self, codes: Tensor, quantized: QuantizedTensor) -> Tensor:
        """Products of the codes of zeros, ``[batch, channels]``, with the weight."""
        weights = (self.weight.tensor, self.weight_scale, quantized.scale)
        tables = (torch.zeros_like(self.folded_bias), quantized.step)
        if not isinstance(self.geometry, ConvGeometry):
            return int_linear(codes, *weights, *tables, torch.float32)
        conv = self.geometry
        sizes = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel, strict=True)]
        image = codes[:, None, None].expand(-1, *sizes, -1).contiguous()
        arguments = (conv.kernel, conv.stride, conv.dilation, conv.groups, torch.float32)
        return int_conv2d(image, *weights, *tables, *arguments)[:, 0, 0]
