"""Absorbing: weights take in the multiples of their input's channels before quantization.

Weights of 8 bits leave no spare bits for multiples. If they are multiplied in floating point first,
``w'[o, c] = m[c] w[o, c]``, they are rounded on a finer grid where the input is larger, and the
layer is one integer product whatever the multiples: ``x[c] w[o, c] = (x[c] / m[c]) w'[o, c]``.
"""

import torch
from torch import nn

from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.unet.layers import quantized_layers
from dgq.unet.projections import input_quantizer_of


@torch.no_grad()
def absorb_multiples_(unet: nn.Module) -> None:
    """Make weights absorb the multiples of their inputs, unless they have done so already.

    Weights that have codes are rounded to nearest again: their codes were learned on another grid.

    Args:
        unet: a UNet whose activation ranges are fitted.
    """
    for name, layer in quantized_layers(unet).items():
        if layer.weight_quantizer is not None and layer.weight_quantizer.settings.absorbs:
            quantizer = input_quantizer_of(unet, name)
            assert isinstance(quantizer, MultipleQuantizer)  # as the settings demand
            layer.absorb_(quantizer.multiple)
