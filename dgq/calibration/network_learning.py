"""Learning the whole UNet at once, with everything quantized.

Moved codes, gains of outputs, shifts of biases, and scales and zero points of activations all end
up in existing tensors, so that nothing becomes larger or slower.
"""

from typing import cast

from diffusers import UNet2DConditionModel

from dgq.calibration.learning import layers_of, quantizers_of
from dgq.settings import NetworkSettings
from dgq.targets.network import Network


def start_learning_network_(target: Network, settings: NetworkSettings) -> None:
    """Start learning all layers and the ranges of all activations.

    Blocks run again for their gradients: a graph of the whole UNet would hold all its activations
    and all its dequantized weights.

    Args:
        target: the UNet, hardened, with fixed ranges of its activations.
        settings: whether codes move.
    """
    for layer in layers_of(target):
        layer.start_learning_output_(moving_codes=settings.rounding_lr > 0)
    for quantizer in quantizers_of(target):
        quantizer.start_learning_()
    cast(UNet2DConditionModel, target.unet).enable_gradient_checkpointing()


def harden_network_(target: Network, keep: bool) -> None:
    """End the learning.

    Args:
        target: the UNet with what was learned.
        keep: keep the result; otherwise restore everything.
    """
    for layer in layers_of(target):
        layer.harden_output_(keep)
    for quantizer in quantizers_of(target):
        if not keep and quantizer.learnable is not None:
            quantizer.learnable.stop_()
        quantizer.harden_()
    cast(UNet2DConditionModel, target.unet).disable_gradient_checkpointing()
