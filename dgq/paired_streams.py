"""The full-precision and the quantized stream, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dgq.context import quantization
from dgq.streaming import Stream, TargetInput


class PairedStreams:
    """All calibration samples, waiting at one target in full precision and as quantized so far.

    A target is visited by ``references`` (its outputs in full precision), whatever learning there
    is, and ``leave``. The quantized stream has quantized weights and unquantized activations,
    whose ranges are observed on the way: one pass serves every number of bits and groups.

    Args:
        unet: a quantized UNet.
        targets: by name, in execution order.
        calls: keyword arguments of the UNet call of each micro-batch.
    """

    def __init__(
        self,
        unet: nn.Module,
        targets: Mapping[str, nn.Module],
        calls: Sequence[Mapping[str, Any]],
    ) -> None:
        self.unet = unet
        self.full_precision = Stream(unet, targets, calls)
        self.quantized = Stream(unet, targets, calls)
        with quantization(unet, weights=False, activations=False):
            self.full_precision.advance()
            self.quantized.advance()

    @property
    def inputs(self) -> list[TargetInput]:
        """Inputs of the current target, from the network as quantized so far."""
        return self.quantized.inputs

    def references(self) -> list[Tensor]:
        """Run the full-precision stream through the current target; its outputs."""
        with quantization(self.unet, weights=False, activations=False):
            self.full_precision.advance()
        return self.full_precision.outputs

    def leave(self) -> None:
        """Run the quantized stream through the current target, by now hardened."""
        with quantization(self.unet, weights=True, activations=False, observing=True):
            self.quantized.advance()

    def close(self) -> None:
        """Drop both streams."""
        self.full_precision.close()
        self.quantized.close()
