"""A full-precision and a quantized stream, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dgq.streams.micro_batches import TargetInput
from dgq.streams.streaming import Stream
from dgq.streams.waiting import Waiting
from dgq.targets.target import Target
from dgq.unet.context import quantization


class PairedStreams:
    """Calibration samples waiting at one target, in full precision and as quantized so far.

    At each target, ``advance_reference`` yields its full-precision outputs; once the target has
    been learned, ``advance_quantized`` moves on. The quantized stream has quantized weights and
    unquantized activations, whose ranges are observed on the way, so one pass serves all numbers of
    bits and groups.

    Args:
        unet: a quantized UNet.
        targets: targets by name, in execution order.
        calls: keyword arguments of the UNet call of each micro-batch.
        places: where the tensors of each pass wait; by default they stay where they are.
    """

    def __init__(
        self,
        unet: nn.Module,
        targets: Mapping[str, Target],
        calls: Sequence[Mapping[str, Any]],
        places: Iterator[Waiting] | None = None,
    ) -> None:
        self.unet = unet
        self.sizes = [call["sample"].shape[0] for call in calls]
        self.full_precision = Stream(unet, targets, calls, places)
        self.quantized = Stream(unet, targets, calls, places)
        with quantization(unet, weights=False, activations=False):
            self.full_precision.advance()
            self.quantized.advance()

    @property
    def n_rows(self) -> int:
        """Samples over all micro-batches."""
        return sum(self.sizes)

    def advance_reference(self) -> None:
        """Run the full-precision stream through the current target, to get its outputs."""
        with quantization(self.unet, weights=False, activations=False):
            self.full_precision.advance()

    def advance_quantized(self, observing: bool = True) -> None:
        """Run the quantized stream through the current target, which is hardened by now.

        Args:
            observing: record the ranges of the activations on the way.
        """
        with quantization(self.unet, weights=True, activations=False, observing=observing):
            self.quantized.advance()

    def inputs(self, rows: Tensor) -> TargetInput:
        """Arguments of the current target for samples ``rows [n]``, as quantized so far."""
        return self.quantized.input_rows(rows)

    def references(self, rows: Tensor) -> Tensor:
        """Full-precision outputs of the current target for samples ``rows [n]``."""
        return self.full_precision.output_rows(rows)

    def close(self) -> None:
        """Drop both streams."""
        self.full_precision.close()
        self.quantized.close()
