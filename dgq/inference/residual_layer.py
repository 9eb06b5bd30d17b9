"""An integer layer that adds what its input changed to its output of the call before.

A layer is linear: of ``x + d`` it computes what it computed of ``x``, and one integer product of
the codes of ``d``.
"""

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.inference.input_quantizers import ChannelInput
from dgq.inference.layers import PackedLayer
from dgq.inference.live_layer import LiveLayer
from dgq.inference.quantized_tensor import QuantizedTensor


class ResidualLayer(LiveLayer):
    """A linear or convolution layer that reads what a ``ResidualInput`` quantized.

    Args:
        packed: the layer in its stored form.
        reader: the quantizer of its input, its own or its owner's.
        folded: the weight ``[out, n]``, as ``fold`` returns it.
    """

    def __init__(self, packed: PackedLayer, reader: ChannelInput, folded: Tensor) -> None:
        super().__init__(packed, reader, folded)
        self.calls = reader.calls

    def output_of(self, quantized: QuantizedTensor) -> Tensor:
        """What the layer computes of the quantized sum, ``[batch, ..., out]``.

        Raises:
            DGQError: if the call before was not computed by this layer.
        """
        total = self._without_bias(quantized)
        memory = self.calls.memory
        if quantized.goes_on:
            kept = None if memory is None else memory.get(self, total)
            if kept is None:
                raise DGQError(
                    "a layer lacks its output of the step before: let the pipeline begin a new "
                    "image after the UNet was prepared"
                )
            total = kept + total
        if memory is not None:
            memory.put(self, total)
        return (total + self.folded_bias[0]).to(quantized.dtype)

    def _without_bias(self, quantized: QuantizedTensor) -> Tensor:
        """The product of the codes, and of those of the second round."""
        product = self.product(quantized, -self.of_zeros(quantized), torch.float32)
        rest = quantized.rest
        return product if rest is None else product + self._without_bias(rest)
