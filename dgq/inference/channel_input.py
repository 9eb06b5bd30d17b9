"""Quantizers that emit integer codes: the scales of their channels are multiples of one scale."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from dgq.errors import DGQError
from dgq.inference.input_quantizers import InputQuantizer
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.math.multiples import possible_multiples, shared_multiple
from dgq.quantizers.channel_lookup import channel_parameters
from dgq.unet.calls import SamplerCalls
from dgq.unet.compiling import LaidOut
from dgq.unet.derivatives import may_need_derivative

PREPARED = ("channel_multiple", "channel_zero", "code_factor")
"""Tables of a ``ChannelInput`` that makes codes, derived from the stored tensors."""


class MakesCodes(ABC):
    """How a device quantizes: what quantizers need of ``dgq.inference.products.Products``."""

    @abstractmethod
    def offset(self, largest: int) -> int | None:
        """What is taken from codes up to ``largest`` to fit them into int8; None for uint8.

        If it is much larger than the codes, sums lose digits when biases add it again.
        """

    @abstractmethod
    def quantize(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor, Tensor, Tensor],
        step: Tensor,
        largest: int,
        padding: list[int],
        offset: int | None,
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """Codes of ``[batch, ..., channels]``, less the offset.

        Args:
            x: the activation.
            tables: scale, multiples, zero points and factors, as ``reference.quantize`` takes them.
            step: step of each sample.
            largest: largest code.
            padding: padding of height and width.
            offset: as returned by ``offset``.
            spoilt: ``[batch]``, to be set to NaN for samples with a NaN, where that costs nothing.
        """

    def quantize_gated(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor, Tensor, Tensor],
        step: Tensor,
        largest: int,
        offset: int | None,
        spoilt: Tensor | None = None,
    ) -> Tensor:
        """Codes of ``value * gelu(gate)``, the halves of ``[batch, ..., 2 channels]``."""
        value, gate = x.chunk(2, -1)
        return self.quantize(value * F.gelu(gate), tables, step, largest, [], offset, spoilt)


class ChannelInput(InputQuantizer, LaidOut):
    """Channels whose scales are whole multiples of one, so that a layer is one integer product.

    ``scale [steps]`` is the finest scale, beside ``zero_point [steps, channels]`` and ``multiple
    [channels]``; a single channel stands for all where a tensor is quantized as a whole.

    Args:
        n_bits: of the codes, 2 to 8.
        calls: calls of the UNet.
        channels: of the activation.
        of_text: tokens are words.
        max_exponent: bits that multiples take from the spare bits of both operands.
        absorbed: whether the weights of all layers that read it have absorbed the multiples.
    """

    multiple: Tensor
    channel_multiple: Tensor
    channel_zero: Tensor
    code_factor: Tensor

    def __init__(
        self,
        n_bits: int,
        calls: SamplerCalls,
        channels: int,
        of_text: bool = False,
        max_exponent: int = 0,
        absorbed: bool = False,
    ) -> None:
        super().__init__(n_bits, calls, channels, of_text)
        self.max_exponent = max_exponent
        self.absorbed = absorbed
        self.emits_codes = False
        self.products: MakesCodes | None = None
        self.offset: int | None = None
        self.store("multiple", torch.empty(0, dtype=torch.int16))

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel."""
        return channel_parameters(x, self.scale, self.zero_point, self.multiple, self.calls)

    def forward(self, x: Tensor) -> Tensor | QuantizedTensor:  # type: ignore[override]
        """The quantized tensor: in floating point, or as codes once layers multiply integers."""
        return self.codes(x) if self.emits_codes else super().forward(x)

    def codes(self, x: Tensor, padding: tuple[int, ...] = ()) -> QuantizedTensor:
        """Quantize ``[batch, ..., channels]``, for convolutions with padding around the pixels.

        Raises:
            DGQError: where a gradient is wanted, which integers do not have.
        """
        self.check_no_gradient(x)
        step = self.step_on(x.device)
        assert self.products is not None
        with self.calls.noting(x) as spoilt:
            codes = self.products.quantize(
                x, self.tables, step, self.largest, list(padding), self.offset, spoilt
            )
        return QuantizedTensor(codes, self.scale, step, x.dtype)

    def gated_codes(self, x: Tensor) -> QuantizedTensor:
        """Quantize ``value * gelu(gate)``, the halves of ``[batch, ..., 2 channels]``."""
        step = self.step_on(x.device)
        assert self.products is not None
        with self.calls.noting(x) as spoilt:
            codes = self.products.quantize_gated(
                x, self.tables, step, self.largest, self.offset, spoilt
            )
        return QuantizedTensor(codes, self.scale, step, x.dtype)

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, multiples, zero points and factors, as ``reference.quantize`` takes them."""
        return self.scale, self.channel_multiple, self.channel_zero, self.code_factor

    def step_on(self, device: torch.device) -> Tensor:
        """The step of each sample on a device; it is on another one only outside of a call."""
        return self.calls.step.to(device)

    def check_no_gradient(self, x: Tensor) -> None:
        """Raise DGQError where a gradient is wanted, which integers do not have."""
        if may_need_derivative(x):
            raise DGQError(
                "integer products have no gradients, and take part in no transform of torch.func: "
                "load the model with execution='float'"
            )

    def factors(self, channels: int) -> tuple[Tensor, Tensor]:
        """Factors ``[channels]`` of the codes and of the weights; their products are the multiples.

        Args:
            channels: of the input.
        """
        multiple = self.multiple.expand(channels)
        if self.absorbed:
            one = torch.ones_like(multiple, dtype=torch.int64)
            return one, one
        return shared_multiple(multiple, self.n_bits, self.max_exponent)

    def prepare_(self, channels: int, products: MakesCodes) -> None:
        """Start emitting codes, for layers whose weights were multiplied by their factors.

        Args:
            channels: of the input.
            products: of the device that it is on.
        """
        on_codes, _ = self.factors(channels)
        self.products, self.offset = products, products.offset(self.largest * int(on_codes.max()))
        multiple, zero_point = self.multiple.expand(channels), self.zero_point.expand(-1, channels)
        tables = (multiple.float(), zero_point, on_codes.float())
        for name, table in zip(PREPARED, tables, strict=True):
            self.register_buffer(name, table.detach().contiguous(), persistent=False)

    def release_(self) -> None:
        """Stop emitting codes: quantize in floating point."""
        self.emits_codes, self.products, self.offset = False, None, None
        for name in PREPARED:
            self._buffers.pop(name, None)
            self._non_persistent_buffers_set.discard(name)

    @property
    def is_laid_out(self) -> bool:
        """Whether it makes codes for layers that multiply integers."""
        return self.products is not None

    def has_code_of_zero(self) -> bool:
        """Whether zero padding has a code at every step."""
        return bool(((self.zero_point >= 0) & (self.zero_point <= self.largest)).all())

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        if self.scale.ndim != 1 or self.zero_point.ndim != 2 or self.multiple.ndim != 1:
            return "scales, zero points or multiples have a wrong number of dimensions"
        if self.zero_point.shape != (self.scale.shape[0], self.multiple.shape[0]):
            return "zero points are not [steps, channels]"
        if self.multiple.shape[0] not in (1, self.channels):
            return f"multiples of {self.multiple.shape[0]} channels, expected {self.channels}"
        possible = possible_multiples(self.n_bits, self.max_exponent)
        if not bool(torch.isin(self.multiple, possible.to(self.multiple.device)).all()):
            return f"a multiple beyond the spare bits, {self.max_exponent}"
        return super().problem()
