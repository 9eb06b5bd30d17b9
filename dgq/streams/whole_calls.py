"""Samples at the whole UNet: its calls, and its full-precision outputs for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dgq.streams.micro_batches import TargetInput, gather_inputs, pick_rows, places_of
from dgq.unet.call_rows import to_device
from dgq.unet.context import context_of


class WholeCalls:
    """The counterpart of ``PairedStreams`` for the whole UNet, once all passes have finished.

    Args:
        unet: a quantized UNet.
        calls: keyword arguments of the UNet call of each micro-batch.
        outputs: full-precision output of the UNet for each micro-batch.
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
        """Full-precision outputs of the UNet for samples ``rows [n]``."""
        return pick_rows(self._outputs, places_of(rows, self._sizes))
