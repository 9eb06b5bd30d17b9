"""Quantizers of activations that run: fixed tensors of scales, nothing that observes or learns."""

import torch
from torch import Tensor

from dgq.activation_quantizer import PIXEL
from dgq.affine import fake_quantize
from dgq.calls import SamplerCalls
from dgq.channel_lookup import channel_parameters
from dgq.group_lookup import GroupTable, element_parameters
from dgq.inference.exact_buffers import ExactBuffers
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import quantize


class InputQuantizer(ExactBuffers):
    """Affine quantization with a scale and a zero point for each step.

    Args:
        n_bits: of the codes, 2 to 8.
        calls: of the UNet.
        of_text: tokens are words, which do not move when the latents change their size.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, n_bits: int, calls: SamplerCalls, of_text: bool = False) -> None:
        super().__init__()
        self.n_bits = n_bits
        self.calls = calls
        self.of_text = of_text
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int16))

    @property
    def largest(self) -> int:
        """The largest code."""
        return 2**self.n_bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize, in float32 whatever the precision of ``x``."""
        scale, zero_point = self.parameters_of(x)
        return fake_quantize(x.float(), scale, zero_point, self.n_bits).to(x.dtype)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element at the step of the call, broadcastable to ``x``."""
        raise NotImplementedError

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        if not bool((self.scale > 0).all() and self.scale.isfinite().all()):
            return "a scale is not a positive number"
        if self.scale.shape[0] not in (1, self.calls.n_steps):
            return f"{self.scale.shape[0]} rows of scales for {self.calls.n_steps} steps"
        return None


class GroupedInput(InputQuantizer):
    """Groups of channels or pixels with free scales: ``scale``, ``zero_point`` ``[steps, groups]``.

    ``group_index [steps, members]`` is the group of each member, ``axis`` 0 (channels) or 1
    (pixels).
    """

    group_index: Tensor
    axis: Tensor

    def __init__(self, n_bits: int, calls: SamplerCalls, of_text: bool = False) -> None:
        super().__init__(n_bits, calls, of_text)
        self.on_pixels = False
        self.register_buffer("group_index", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("axis", torch.tensor(0, dtype=torch.uint8))

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element, from its group's."""
        table = GroupTable(
            self.scale, self.zero_point, self.group_index, self.on_pixels, self.of_text
        )
        return element_parameters(x, table, self.calls)

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        if self.scale.ndim != 2 or self.zero_point.shape != self.scale.shape:
            return "scales and zero points are not [steps, groups]"
        rows, groups = self.scale.shape
        if self.group_index.ndim != 2 or self.group_index.shape[0] != rows:
            return "groups of members are not [steps, members]"
        if int(self.group_index.max()) >= groups or int(self.axis) not in (0, PIXEL):
            return "a group or an axis that does not exist"
        return super().problem()

    def settle_(self) -> None:
        """Read the axis once: reading it in each call would make an accelerator wait."""
        self.on_pixels = int(self.axis) == PIXEL


class ChannelInput(InputQuantizer):
    """Channels whose scales differ by powers of two, so that a layer is one integer product.

    ``scale [steps]`` is that of channels with exponent 0, ``zero_point [steps, channels]``,
    ``exponent [channels]``; one channel may stand for all, as it does for a whole tensor.
    """

    exponent: Tensor
    gain: Tensor
    shift: Tensor
    zero_code: Tensor

    def __init__(self, n_bits: int, calls: SamplerCalls, of_text: bool = False) -> None:
        super().__init__(n_bits, calls, of_text)
        self.emits_codes = False
        self.register_buffer("exponent", torch.empty(0, dtype=torch.uint8))

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel."""
        return channel_parameters(x, self.scale, self.zero_point, self.exponent, self.calls)

    def forward(self, x: Tensor) -> Tensor | QuantizedTensor:  # type: ignore[override]
        """The quantized tensor: in floating point, or as codes once layers multiply integers."""
        return self.codes(x) if self.emits_codes else super().forward(x)

    def codes(self, x: Tensor, padding: tuple[int, ...] = ()) -> QuantizedTensor:
        """Quantize ``[batch, ..., channels]``, for convolutions with padding around the pixels."""
        step = self.calls.step
        arguments = (self.scale, self.gain, self.zero_code, self.shift, step, self.largest)
        return QuantizedTensor(quantize(x, *arguments, list(padding)), self.scale, step, x.dtype)

    def prepare_(self, channels: int, shift: Tensor) -> None:
        """Make codes from now on for layers whose weights were shifted.

        Args:
            channels: of the input.
            shift: ``[channels]``, by how many bits its codes are shifted up.
        """
        gain = self.exponent.float().exp2().expand(channels).contiguous()
        zero = self.zero_point.expand(-1, channels).contiguous()
        values = {"gain": gain, "shift": shift.float().exp2().contiguous(), "zero_code": zero}
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def has_code_of_zero(self) -> bool:
        """Whether zeros around an image can be codes, at every step."""
        return bool(((self.zero_point >= 0) & (self.zero_point <= self.largest)).all())

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        if self.scale.ndim != 1 or self.zero_point.ndim != 2 or self.exponent.ndim != 1:
            return (
                "scales, zero points and exponents are not [steps], [steps, channels], [channels]"
            )
        if self.zero_point.shape != (self.scale.shape[0], self.exponent.shape[0]):
            return "zero points are not [steps, channels]"
        if int(self.exponent.max()) > 8:
            return "an exponent beyond the spare bits of 8-bit operands"
        return super().problem()
