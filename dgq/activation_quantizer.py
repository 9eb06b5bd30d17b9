"""Quantizer of an activation, in groups along the axis where its outliers lie."""

from typing import Any

import torch
from torch import Tensor

from dgq.affine import affine_parameters, fake_quantize
from dgq.buffers import SizedByCheckpoint
from dgq.context import QuantizationContext, word_index
from dgq.errors import DGQError
from dgq.grouping import group_ranges, spread
from dgq.learnable_range import LearnableRange
from dgq.observer import RangeObserver, Ranges, merge_steps
from dgq.settings import FLOAT_BITS, ActivationSettings, operand_bits

CHANNEL, PIXEL = 0, 1


class ActivationQuantizer(SizedByCheckpoint):
    """Affine quantization with a scale for each step and group of channels or pixels.

    Scales and groups come from observed ranges (``fit_``) or from a checkpoint. 16 bits pass the
    input unchanged.

    Args:
        settings: bits, groups, and whether each step has its own ranges.
        context: mode and step of the UNet.
        per_tensor: one group whatever the settings say (2-D inputs, attention scores).
        of_text: tokens are words, which do not move when the latents change their size.
    """

    scale: Tensor
    zero_point: Tensor
    group_index: Tensor
    axis: Tensor

    def __init__(
        self,
        settings: ActivationSettings,
        context: QuantizationContext,
        per_tensor: bool = False,
        of_text: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.context = context
        self.per_tensor = per_tensor
        self.of_text = of_text
        self.observer: RangeObserver | None = None
        self.learnable = None if self.n_bits == FLOAT_BITS else LearnableRange()
        self.on_pixels = False
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))
        self.register_buffer("group_index", torch.empty(0, dtype=torch.uint8))
        self.register_buffer("axis", torch.tensor(CHANNEL, dtype=torch.uint8))

    @property
    def n_bits(self) -> int:
        """Bits of the codes, or FLOAT_BITS where the input passes unchanged."""
        return operand_bits(self.settings.n_bits)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``[batch, channels, height, width]``, ``[batch, tokens, channels]`` or 2-D."""
        if self.n_bits == FLOAT_BITS:
            return x
        if self.context.observing and self.observer is not None:
            self.observer.update(x, self.context.step)
        if not self.context.activations:
            return x
        scale, zero_point = self._parameters_of(x)
        # In float32 whatever the input: half precision cannot hold a large zero point.
        quantized = fake_quantize(x.float(), scale.float(), zero_point, self.settings.n_bits)
        return quantized.to(x.dtype)

    def start_observing_(self) -> None:
        """Make an observer; ranges are recorded whenever the context says so."""
        self.observer = RangeObserver(self.context.n_steps, self.per_tensor)

    def require_observer(self) -> RangeObserver:
        """The observer; raises TypeError before ``start_observing_``."""
        if self.observer is None:
            raise TypeError("this quantizer does not observe: call start_observing_ first")
        return self.observer

    @torch.no_grad()
    def fit_(self, name: str = "activation") -> None:
        """Choose axis and groups from the observed ranges, and set scales and zero points.

        Raises:
            DGQError: if a step was never observed, or a range is not finite.
        """
        if self.n_bits == FLOAT_BITS:
            return
        channels, pixels = self._observed(name)
        on_pixels = pixels is not None and bool(spread(*pixels) > spread(*channels))
        low, high = pixels if on_pixels and pixels is not None else channels
        groups = group_ranges(low, high, 1 if self.per_tensor else self.settings.n_groups)
        n_bits = self.settings.n_bits
        self.scale, zero_point = affine_parameters(groups.low, groups.high, n_bits)
        self.zero_point = zero_point.to(torch.int32)
        self.group_index = smallest_integers(groups.member_group)
        self.on_pixels = on_pixels
        self.axis.fill_(PIXEL if on_pixels else CHANNEL)

    def start_learning_(self) -> None:
        """Begin learning the ranges that ``fit_`` set."""
        if self.n_bits != FLOAT_BITS and self.learnable is not None:
            self.learnable.start_(self.scale)

    @torch.no_grad()
    def harden_(self) -> None:
        """Fix the learned ranges, and free what was learned."""
        if self.learnable is None or not self.learnable.active:
            return
        self.scale, zero_point = self._ranges()
        self.zero_point = zero_point.to(torch.int32)
        self.learnable.stop_()

    def _ranges(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point ``[steps, groups]``, as they are fixed or being learned."""
        if self.learnable is None or not self.learnable.active:
            return self.scale, self.zero_point
        return self.learnable.corrected(self.scale, self.zero_point, self.settings.n_bits)

    def _observed(self, name: str) -> tuple[Ranges, Ranges | None]:
        if self.observer is None or self.observer.channel_low.numel() == 0:
            raise DGQError(f"{name} was never observed: run calibration samples through it first")
        channels, pixels = self.observer.channels, self.observer.pixels
        if not self.settings.per_step:
            channels = merge_steps(channels)
            pixels = None if pixels is None else merge_steps(pixels)
        if not bool((channels.low.isfinite() & channels.high.isfinite()).all()):
            raise DGQError(
                f"{name} has steps without calibration samples, or values that are not finite: "
                "give every step at least one sample"
            )
        return channels, pixels

    def _parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element, broadcastable to ``x``."""
        if self.scale.numel() == 0:
            raise DGQError("this activation quantizer has no scales: calibrate or load first")
        step = self.context.step if self.scale.shape[0] > 1 else self.context.step.new_zeros(1)
        step = step.to(self.scale.device)
        index = self._members_of(x, step)
        shape = self._broadcast_shape(x, index)
        scale, zero_point = self._ranges()
        return (
            scale[step].gather(1, index).view(shape),
            zero_point[step].gather(1, index).view(shape),
        )

    def _members_of(self, x: Tensor, step: Tensor) -> Tensor:
        """Group of each member of the grouped axis, ``[1 or batch, members]``."""
        index = self.group_index[step].long()
        if index.shape[1] == 1 or not self.on_pixels:
            return index
        n_pixels = x.shape[2] * x.shape[3] if x.ndim == 4 else x.shape[1]
        if self.of_text:
            if n_pixels == index.shape[1]:
                return index
            return index[:, word_index(n_pixels, index.shape[1]).to(index.device)]
        moved = self.context.pixel_index(n_pixels, index.shape[1])
        return index if moved is None else index[:, moved.to(index.device)]

    def _broadcast_shape(self, x: Tensor, index: Tensor) -> list[int]:
        shape = [1] * x.ndim
        shape[0] = index.shape[0]
        if index.shape[1] == 1:
            return shape
        if x.ndim == 4 and self.on_pixels:
            return [*shape[:2], x.shape[2], x.shape[3]]
        shape[1 if x.ndim == 4 or self.on_pixels else -1] = index.shape[1]
        return shape

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # Read once: reading a tensor in each forward would make the accelerator wait.
        self.on_pixels = self.axis.device.type != "meta" and int(self.axis) == PIXEL


def smallest_integers(index: Tensor) -> Tensor:
    """The same indices as uint8 where they fit, else int32."""
    return index.to(torch.uint8 if int(index.max()) < 256 else torch.int32)
