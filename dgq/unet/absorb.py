"""Absorbing: multiples of an input's channels in the weights, before these are quantized.

Weights of 8 bits leave no spare bits to multiples. Multiplied by them in floating point first,
``w'[o, c] = m[c] w[o, c]``, they are rounded on a grid that is finer where the input is larger, and
the layer is one integer product of any multiples: ``x[c] w[o, c] = (x[c] / m[c]) w'[o, c]``.
"""

import torch
from torch import nn

from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.unet.layers import quantized_layers
from dgq.unet.shared_inputs import input_quantizer_of


@torch.no_grad()
def absorb_multiples_(unet: nn.Module) -> None:
    """Let weights absorb the multiples of their inputs, unless they have absorbed the same ones.

    Those that have codes are rounded to nearest: theirs were learned for another grid.

    Args:
        unet: with the ranges of its activations fitted.
    """
    for name, layer in quantized_layers(unet).items():
        if layer.weight_quantizer is not None and layer.weight_quantizer.settings.absorbs:
            quantizer = input_quantizer_of(unet, name)
            assert isinstance(quantizer, MultipleQuantizer)  # as the settings demand
            layer.absorb_(quantizer.multiple)
