"""How much of the noise in a layer's operands arrives at the UNet's output."""

from dataclasses import dataclass

from torch import Tensor

from dgq.quantizers.observer import Ranges


@dataclass(frozen=True)
class InputSensitivity:
    """A tensor that one quantizer quantizes, for all layers that read it.

    Args:
        layers: their names.
        padded: a convolution extends it by zeros.
        ranges: observed for each step, ``[steps, channels]``; 2-D inputs count as one channel.
        gain: relative noise of the output, pooled over all samples, for noise of variance 1 in a
            channel at a step, ``[steps, channels]``.
    """

    layers: tuple[str, ...]
    padded: bool
    ranges: Ranges
    gain: Tensor

    def noise(self, variance: Tensor) -> float:
        """Relative noise of the output for noise of this variance, ``[steps, channels]``."""
        return float((self.gain * variance).sum())


@dataclass(frozen=True)
class WeightSensitivity:
    """A layer's weight.

    Args:
        gain: relative noise of the output for noise of variance 1 in one weight of an output
            channel, ``[out]``.
        macs: multiply-accumulates of one row of a call.
    """

    gain: Tensor
    macs: float


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of a UNet.

    Args:
        inputs: by the name of the tensor: that of the layer that reads it, or of the attention
            and ``input`` or ``context``.
        weights: by the name of the layer.
    """

    inputs: dict[str, InputSensitivity]
    weights: dict[str, WeightSensitivity]
