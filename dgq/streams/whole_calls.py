"""Samples at the UNet as a whole: its calls, and what it returned for them in full precision."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dgq.calibration.runtime import to_device
from dgq.streams.micro_batches import TargetInput, gather_inputs, pick_rows, places_of
from dgq.unet.context import context_of


class WholeCalls:
    """What ``PairedStreams`` are at one target, for the UNet when all passes have finished.

    Args:
        unet: a quantized UNet.
        calls: keyword arguments of the UNet call of each micro-batch.
        outputs: what the UNet returned for each in full precision.
    """

    def __init__(
        self, unet: nn.Module, calls: Sequence[Mapping[str, Any]], outputs: Sequence[Tensor]
    ) -> None:
        self.unet = unet
        self._sizes = [output.shape[0] for output in outputs]
        self._outputs = outputs
        step_of = context_of(unet).step_of
        self._inputs = [TargetInput((), dict(c), step_of(c["timestep"])) for c in calls]

    @property
    def n_rows(self) -> int:
        """Samples over all micro-batches."""
        return sum(self._sizes)

    def inputs(self, rows: Tensor) -> TargetInput:
        """Arguments of the UNet for samples ``rows [n]``, on its device."""
        device = next(self.unet.parameters()).device
        args, kwargs, step = gather_inputs(self._inputs, rows)
        return TargetInput(args, to_device(kwargs, device), step.to(device))

    def references(self, rows: Tensor) -> Tensor:
        """What the UNet returned for samples ``rows [n]`` in full precision."""
        return pick_rows(self._outputs, places_of(rows, self._sizes))
