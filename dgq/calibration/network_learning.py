"""Learning the whole UNet at once, with everything quantized.

Codes that move, gains of outputs, shifts of biases, scales and zero points of activations: all end
up in tensors that are there already, so that nothing becomes larger or slower.
"""

from typing import cast

from diffusers import UNet2DConditionModel

from dgq.calibration.learning import layers_of, quantizers_of
from dgq.settings import NetworkSettings
from dgq.targets.network import Network


def start_learning_network_(target: Network, settings: NetworkSettings) -> None:
    """Let all layers, and ranges of all activations, be learned.

    Blocks run again for their gradients: a graph of the whole UNet would hold all its activations
    and, dequantized, all its weights.

    Args:
        target: hardened, ranges of its activations fixed.
        settings: say whether codes move.
    """
    for layer in layers_of(target):
        layer.start_learning_output_(moving_codes=settings.rounding_lr > 0)
    for quantizer in quantizers_of(target):
        quantizer.start_learning_()
    cast(UNet2DConditionModel, target.unet).enable_gradient_checkpointing()


def harden_network_(target: Network, keep: bool) -> None:
    """End the learning.

    Args:
        target: with what was learned.
        keep: take it up; otherwise everything is as it was before.
    """
    for layer in layers_of(target):
        layer.harden_output_(keep)
    for quantizer in quantizers_of(target):
        if not keep and quantizer.learnable is not None:
            quantizer.learnable.stop_()
        quantizer.harden_()
    cast(UNet2DConditionModel, target.unet).disable_gradient_checkpointing()
