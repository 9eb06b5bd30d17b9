"""Learning the whole UNet at once: what is free in integers, with everything quantized.

Rounding is fixed by then. Gains of outputs and shifts of biases end up in tensors that are there
already, and so do scales and zero points of activations.
"""

from typing import cast

from dgq.learning import layers_of, quantizers_of
from dgq.quantized_unet import QuantizedUNet
from dgq.targets.network import Network


def start_learning_network_(target: Network) -> None:
    """Let outputs of all layers and ranges of all activations be learned.

    Blocks run again for their gradients: a graph of the whole UNet would hold all its activations
    and, dequantized, all its weights.
    """
    for layer in layers_of(target):
        layer.start_learning_output_()
    for quantizer in quantizers_of(target):
        quantizer.start_learning_()
    cast(QuantizedUNet, target.unet).enable_gradient_checkpointing()


def harden_network_(target: Network, keep: bool) -> None:
    """End the learning.

    Args:
        target: with what was learned.
        keep: take it up; otherwise everything is as it was before.
    """
    for layer in layers_of(target):
        if not keep and layer.learnable_output is not None:
            layer.learnable_output.stop_()
        layer.harden_output_()
    for quantizer in quantizers_of(target):
        if not keep and quantizer.learnable is not None:
            quantizer.learnable.stop_()
        quantizer.harden_()
    cast(QuantizedUNet, target.unet).disable_gradient_checkpointing()
