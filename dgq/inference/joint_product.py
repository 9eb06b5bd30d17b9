"""One product for layers that read the same quantized tensor: q, k and v, or the text's k and v.

At a small batch, the product of one such layer fills a third of a GPU and takes about as long as
its launch; the product of all of them takes hardly longer. The layers' weights, scales and biases
are views of joint tensors, so nothing is in memory twice, and each layer still computes alone where
it has to: with an adapter, in a custom attention processor, or under a hook.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.products.products import ProductWeight
from dgq.inference.quantized_tensor import QuantizedTensor


class JointProduct:
    """One product of several linear layers. They refer to it; it does not refer to them.

    Args:
        weight: weights of all layers, stacked.
        weight_scale: ``[out]``, of all layers.
        bias: ``[steps, out]``, of all layers.
        parts: the weight of each layer, a view of the joint one.
    """

    def __init__(
        self,
        weight: ProductWeight,
        weight_scale: Tensor,
        bias: Tensor,
        parts: Sequence[ProductWeight],
    ) -> None:
        self.weight, self.weight_scale, self.bias = weight, weight_scale, bias
        self.parts = tuple(parts)
        self.sizes = [part.geometry.out_channels for part in parts]

    @property
    def places(self) -> list[slice]:
        """The rows of each layer in the joint weight."""
        return places_of(self.sizes)

    def is_of(self, layers: Sequence[nn.Module]) -> bool:
        """Whether these are exactly the layers of this product, in its order."""
        weights = [getattr(layer, "kernel_weight", None) for layer in layers]
        return len(weights) == len(self.parts) and all(
            weight is part for weight, part in zip(weights, self.parts, strict=True)
        )

    def __call__(self, quantized: QuantizedTensor) -> Sequence[Tensor]:
        """The output of each layer for ``[batch, ..., in]``: views ``[batch, ..., out]``."""
        output = self.weight.multiply(quantized, self.weight_scale, self.bias)
        parts: Sequence[Tensor] = output.split(self.sizes, -1)
        return parts


def join_(layers: Sequence[IntegerLayer]) -> None:
    """Join linear layers that read one quantized tensor into one product, where that is faster.

    Layers whose biases depend on the sample stay apart.
    """
    if len(layers) < 2 or any(type(layer) is not IntegerLayer for layer in layers):
        return
    first, *others = layers
    weight = first.kernel_weight.stacked([layer.kernel_weight for layer in others])
    if weight is None:
        return
    scale = torch.cat([layer.weight_scale for layer in layers])
    bias = torch.cat([layer.folded_bias for layer in layers], 1)
    places = places_of([layer.geometry.out_channels for layer in layers])
    joint = JointProduct(weight, scale, bias, [weight.rows(place) for place in places])
    for layer, part, place in zip(layers, joint.parts, places, strict=True):
        layer.kernel_weight, layer.joint = part, joint
        layer.weight_scale, layer.folded_bias = scale[place], bias[:, place]


def places_of(sizes: Sequence[int]) -> list[slice]:
    """The row slices of stacked parts with these sizes."""
    return [slice(*pair) for pair in pairwise(accumulate(sizes, initial=0))]
