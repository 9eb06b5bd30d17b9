"""A target and the samples waiting at it: the target's outputs, and the reference outputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dgq.math.reconstruction import noise_and_signal
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.whole_calls import WholeCalls
from dgq.targets.target import Target
from dgq.unet.context import at_step, context_of, quantization


@dataclass(frozen=True)
class Visit:
    """Samples at a target.

    Args:
        target: the target that the streams wait at, after ``PairedStreams.advance_reference``.
        streams: streams with its inputs and references, or the UNet's calls for the whole UNet.
    """

    target: Target
    streams: PairedStreams | WholeCalls

    def output(self, rows: Tensor) -> Tensor:
        """Output of the target for samples ``rows [n]``, in the current mode of the UNet."""
        inputs = self.streams.inputs(rows)
        with at_step(context_of(self.streams.unet), inputs.step):
            return self.target.run(*inputs.args, **inputs.kwargs)

    def output_and_reference(self, rows: Tensor, activations: bool) -> tuple[Tensor, Tensor]:
        """Output of the target with quantized weights, and the full-precision reference.

        Args:
            rows: ``[n]``, indices of samples.
            activations: quantize activations too.
        """
        with quantization(self.streams.unet, weights=True, activations=activations):
            return self.output(rows), self.streams.references(rows)

    @torch.no_grad()
    def observe(self, batch_size: int) -> None:
        """Record the ranges of the target's activations for all samples; the samples stay there."""
        with quantization(self.streams.unet, weights=True, activations=False, observing=True):
            for rows in self._batches(batch_size):
                self.output(rows)

    @torch.no_grad()
    def noise_and_signal(self, batch_size: int, activations: bool) -> Tensor:
        """``[2]``: squared error of the target's output over all samples, and its energy."""
        parts = [
            noise_and_signal(*self.output_and_reference(rows, activations)).cpu()
            for rows in self._batches(batch_size)
        ]
        return sum(parts, torch.zeros(2))

    def _batches(self, batch_size: int) -> list[Tensor]:
        """Indices of all samples, in batches; a process may have no samples to measure on."""
        n_rows = self.streams.n_rows
        return list(torch.arange(n_rows).split(batch_size)) if n_rows else []
