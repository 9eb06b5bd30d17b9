"""How much of the noise in a layer's operands reaches the UNet's output."""

from dataclasses import dataclass

from torch import Tensor

from dgq.quantizers.observer import Ranges


@dataclass(frozen=True)
class InputSensitivity:
    """A tensor that one quantizer quantizes, for all layers that read it.

    Args:
        layers: names of the layers.
        padded: whether a convolution pads it with zeros.
        ranges: ranges observed at each step, ``[steps, channels]``; 2-D inputs count as one
            channel.
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
        macs: multiply-accumulates for one row of a call.
    """

    gain: Tensor
    macs: float


@dataclass(frozen=True)
class Sensitivity:
    """What was measured of a UNet.

    Args:
        inputs: by name of the tensor: that of the layer that reads it, or that of the attention
            with ``input`` or ``context``.
        weights: by name of the layer.
    """

    inputs: dict[str, InputSensitivity]
    weights: dict[str, WeightSensitivity]
