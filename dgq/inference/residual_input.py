"""Quantizer of the difference between an activation and its value at the previous call."""

from torch import Tensor

from dgq.inference.live_input import LiveInput
from dgq.inference.quantized_tensor import OfSum, QuantizedTensor


class ResidualInput(LiveInput):
    """Keeps the sum ``x`` of everything quantized so far for an image, and quantizes ``a - x``.

    Errors do not accumulate, since the difference is taken from the quantized sum. The first call
    has no sum yet, so it quantizes in two rounds: the activation, then the error of the first
    round. All of this is float32, whatever the precision of the activation.
    """

    def forward(self, x: Tensor) -> Tensor | QuantizedTensor:  # type: ignore[override]
        """The quantized sum in floating point, or codes once layers multiply integers."""
        if self.emits_codes:
            return self.codes(x)
        before = self._kept(x)
        if before is None:
            before = self.rounded(x.float())
        total = before + self.rounded(x.float() - before)
        self._keep(total.detach())
        return total.to(x.dtype)

    def codes(self, x: Tensor, padding: tuple[int, ...] = ()) -> QuantizedTensor:
        """Codes of the difference, or of both rounds at the first call.

        Raises:
            DGQError: where a gradient is wanted, which integers do not have.
        """
        self.check_no_gradient(x)
        before, first = self._kept(x), None
        if before is None:
            first = super().codes(x.float(), padding)
            before = self._values(first, padding)
        difference = super().codes(x.float() - before, padding)
        total = before + self._values(difference, padding)
        self._keep(total)
        of_sum = OfSum(first, before, total)
        return difference._replace(dtype=x.dtype, of_sum=of_sum)

    def _kept(self, x: Tensor) -> Tensor | None:
        memory = self.calls.memory
        return None if memory is None else memory.sum_of(self, x)

    def _keep(self, total: Tensor) -> None:
        memory = self.calls.memory
        if memory is not None:
            memory.keep_sum(self, total)

    def _values(self, quantized: QuantizedTensor, padding: tuple[int, ...]) -> Tensor:
        """What codes stand for, without the padding: float32, channels last."""
        codes, of_zero = quantized.codes, quantized.of_zero
        assert of_zero is not None
        for axis, pad in enumerate(padding, 1):
            codes = codes.narrow(axis, pad, codes.shape[axis] - 2 * pad)
        factor = self.code_factor
        scale = quantized.scale[:, None] * self.channel_multiple
        shape = [codes.shape[0], *[1] * (codes.ndim - 2), codes.shape[-1]]
        centred = (codes.float() - of_zero.float().view(shape)) / factor
        return centred * scale.view(shape)
