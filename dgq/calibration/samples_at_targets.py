"""Samples on their way from target to target: those to learn on, and those held out."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from dgq.math.reconstruction import noise_and_signal
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.visit import Visit
from dgq.streams.waiting import Waiting
from dgq.streams.whole_calls import WholeCalls
from dgq.targets import Network, Target
from dgq.unet.call_rows import Call, to_device
from dgq.unet.context import quantization


class SamplesAtTargets:
    """All samples, which pass each target in full precision and as quantized so far.

    Args:
        unet: a quantizable UNet.
        targets: targets by name, in execution order.
        calls: calls to learn on, one for each micro-batch.
        held_out: calls to measure errors on, from held-out samples.
        places: where samples wait.
        device: device of the UNet.
    """

    def __init__(
        self,
        unet: nn.Module,
        targets: Mapping[str, Target],
        calls: Sequence[Call],
        held_out: Sequence[Call],
        places: Iterator[Waiting],
        device: torch.device,
    ) -> None:
        self._unet = unet
        self._device = device
        self._calls = calls, held_out
        stops = {n: t for n, t in targets.items() if not isinstance(t, Network)}
        self._learned, self._held_out = (
            PairedStreams(unet, stops, [to_device(call, device) for call in each], places)
            for each in self._calls
        )

    @property
    def n_rows(self) -> int:
        """Rows to learn on."""
        return self._learned.n_rows

    def visit(self, target: Target, held_out: bool = False) -> Visit:
        """The samples at the current target: to learn on, or held out."""
        streams = self._held_out if held_out else self._learned
        if not isinstance(target, Network):
            return Visit(target, streams)
        outputs = [result[0] for result in streams.full_precision.results]
        return Visit(target, WholeCalls(self._unet, self._calls[held_out], outputs))

    def advance_reference(self) -> None:
        """Run the full-precision streams through the current target."""
        self._learned.advance_reference()
        self._held_out.advance_reference()

    def advance_quantized(self, observing: bool) -> None:
        """Run the quantized streams through the current target, optionally observing it.

        A resumed run passes the finished targets in the same way, since observed attention is
        rounded differently from attention that is not.
        """
        self._learned.advance_quantized(observing=observing)
        self._held_out.advance_quantized(observing=False)

    @torch.no_grad()
    def output_noise_and_signal(self, activations: bool) -> Tensor:
        """Sums of squared errors and squared outputs of the UNet on held-out samples, ``[2]``.

        Args:
            activations: quantize activations as well as weights.
        """
        parts = torch.zeros(2)
        references = self._held_out.full_precision.results
        with quantization(self._unet, weights=True, activations=activations):
            for call, reference in zip(self._calls[True], references, strict=True):
                output = self._unet(**to_device(call, self._device))
                parts += noise_and_signal(output[0], reference[0]).cpu()
        return parts

    def close(self) -> None:
        """Drop all samples."""
        self._learned.close()
        self._held_out.close()
