"""Quantizer of an activation, in groups along the axis where its outliers lie."""

from typing import Any

import torch
from torch import Tensor

from dgq.math.affine import affine_parameters
from dgq.math.grouping import group_ranges, spread
from dgq.quantizers.group_lookup import GroupTable, element_parameters
from dgq.quantizers.observer import Ranges
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext

CHANNEL, PIXEL = 0, 1


class ActivationQuantizer(RangeQuantizer):
    """Affine quantization with a scale for each step and group of channels or pixels.

    Args:
        settings: bits, groups, and whether each step has its own ranges.
        context: mode and step of the UNet.
        per_tensor: one group regardless of the settings (2-D inputs, attention scores).
        of_text: tokens are words, which do not move when the latents change their size.
    """

    group_index: Tensor
    axis: Tensor

    def __init__(
        self,
        settings: ActivationSettings,
        context: QuantizationContext,
        per_tensor: bool = False,
        of_text: bool = False,
    ) -> None:
        super().__init__(settings, context, per_tensor, of_text)
        self.on_pixels = False
        self.register_buffer("group_index", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("axis", torch.tensor(CHANNEL, dtype=torch.uint8))

    def fit_ranges_(self, channels: Ranges, pixels: Ranges | None) -> None:
        """Choose axis and groups, and set scales and zero points ``[steps, groups]``."""
        on_pixels = pixels is not None and bool(spread(*pixels) > spread(*channels))
        low, high = pixels if on_pixels and pixels is not None else channels
        groups = group_ranges(low, high, self.settings.n_groups)
        n_bits = self.settings.n_bits
        self.scale, zero_point = affine_parameters(groups.low, groups.high, n_bits)
        self.zero_point = zero_point.to(torch.int32)
        self.group_index = smallest_integers(groups.member_group)
        self.on_pixels = on_pixels
        self.axis.fill_(PIXEL if on_pixels else CHANNEL)

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element, broadcastable to ``x``."""
        scale, zero_point = self.current_ranges()
        table = GroupTable(scale, zero_point, self.group_index, self.on_pixels, self.of_text)
        return element_parameters(x, table, self.context)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # Read once: reading a tensor in each forward pass would make the accelerator wait.
        self.on_pixels = self.axis.device.type != "meta" and int(self.axis) == PIXEL


def smallest_integers(index: Tensor) -> Tensor:
    """The indices as uint8 if they fit, else as int32."""
    return index.to(torch.uint8 if int(index.max()) < 256 else torch.int32)
