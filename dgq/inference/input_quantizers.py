"""Quantizers of activations for inference: fixed scales, nothing that observes or learns."""

import torch
from torch import Tensor

from dgq.inference.stored_tensors import LARGEST_SCALE, StoredTensors, is_scale
from dgq.math.affine import fake_quantize
from dgq.quantizers.activation_quantizer import PIXEL
from dgq.quantizers.group_lookup import GroupTable, element_parameters
from dgq.unet.calls import SamplerCalls
from dgq.unet.stock_state import InPart


class InputQuantizer(InPart, StoredTensors):
    """Affine quantization with a scale and a zero point for each step.

    Args:
        n_bits: of the codes, 2 to 8.
        calls: calls of the UNet.
        channels: of the activation.
        of_text: tokens are words, which do not move when the latents change their size.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, n_bits: int, calls: SamplerCalls, channels: int, of_text: bool = False
    ) -> None:
        super().__init__()
        self.n_bits = n_bits
        self.calls = calls
        self.channels = channels
        self.of_text = of_text
        self.store("scale", torch.empty(0))
        self.store("zero_point", torch.empty(0, dtype=torch.int16))

    @property
    def largest(self) -> int:
        """The largest code."""
        return (1 << self.n_bits) - 1

    def forward(self, x: Tensor) -> Tensor:
        """Quantize and dequantize, in float32 whatever the precision of ``x``."""
        return self.rounded(x)

    def rounded(self, x: Tensor) -> Tensor:
        """Return ``x`` quantized and dequantized."""
        scale, zero_point = self.parameters_of(x)
        return fake_quantize(x.float(), scale, zero_point, self.n_bits).to(x.dtype)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element at the step of the call, broadcastable to ``x``."""
        raise NotImplementedError

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        if self.scale.dtype != torch.float32 or self.zero_point.is_floating_point():
            return "scales are not float32, or zero points not whole numbers"
        if not is_scale(self.scale):
            return f"a scale is not a positive number below {LARGEST_SCALE:.0e}"
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

    def __init__(
        self, n_bits: int, calls: SamplerCalls, channels: int, of_text: bool = False
    ) -> None:
        super().__init__(n_bits, calls, channels, of_text)
        self.on_pixels = False
        self.store("group_index", torch.empty(0, dtype=torch.uint8))
        self.store("axis", torch.tensor(0, dtype=torch.uint8))

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
        if self.axis.numel() != 1 or int(self.axis) not in (0, PIXEL):
            return "an axis that does not exist"
        members = self.group_index.shape[1]
        if members == 0 or (int(self.axis) != PIXEL and members not in (1, self.channels)):
            return f"groups of {members} members, expected {self.channels} channels"
        if int(self.group_index.min()) < 0 or int(self.group_index.max()) >= groups:
            return "a group that does not exist"
        return super().problem()

    def settle_(self) -> None:
        """Read the axis once: reading it in each call would make an accelerator wait."""
        self.on_pixels = int(self.axis) == PIXEL
