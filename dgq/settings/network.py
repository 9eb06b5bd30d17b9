"""Learning of the UNet as a whole."""

from dataclasses import dataclass

from dgq.settings.checks import check_not_negative


@dataclass(frozen=True)
class NetworkSettings:
    """Learning of the whole UNet, as the last target: everything quantized, all layers at once.

    It has as many steps as every other target.

    Args:
        lr: Adam's learning rate for the logarithm of the weights' scales, and for biases.
        activation_lr: the same for the ranges of activations, relative to their width.
        rounding_lr: the same for the rounding of the weights, in codes; 0 leaves it as it is, which
            saves 16 bytes of memory for each weight.
    """

    lr: float = 0.003
    activation_lr: float = 0.01
    rounding_lr: float = 0.012

    def __post_init__(self) -> None:
        for name in ("lr", "activation_lr", "rounding_lr"):
            check_not_negative(f"network.{name}", getattr(self, name))
