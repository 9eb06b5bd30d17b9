"""Running ranges of an activation: for each step, by channel and by pixel."""

from typing import NamedTuple

import torch
from torch import Tensor

from dgq.quantizers.buffers import SizedByCheckpoint


class Ranges(NamedTuple):
    """Minima and maxima, each ``[steps, members]``."""

    low: Tensor
    high: Tensor


def as_channels_last(x: Tensor) -> Tensor:
    """View ``[batch, channels, height, width]`` as ``[batch, pixels, channels]``, as tokens are."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


class RangeObserver(SizedByCheckpoint):
    """Least and largest value of every channel and every pixel at every step.

    Memory use is that of the ranges, regardless of the number of samples.

    Args:
        n_steps: number of sampler steps.
        per_tensor: keep one range for the whole tensor instead of ranges by channel and pixel.
    """

    channel_low: Tensor
    channel_high: Tensor
    pixel_low: Tensor
    pixel_high: Tensor

    def __init__(self, n_steps: int, per_tensor: bool) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.per_tensor = per_tensor
        for name in ("channel_low", "channel_high", "pixel_low", "pixel_high"):
            self.register_buffer(name, torch.empty(0))

    @torch.no_grad()
    def update(self, x: Tensor, step: Tensor) -> None:
        """Widen the ranges by a batch.

        Args:
            x: ``[batch, channels, height, width]``, ``[batch, tokens, channels]`` or
                ``[batch, channels]``.
            step: ``[1]`` or ``[batch]``, the step of each sample.
        """
        step = step.to(x.device)
        if self.per_tensor or x.ndim == 2:
            self._widen("channel", x.flatten(1).amin(1, True), x.flatten(1).amax(1, True), step)
            return
        x = as_channels_last(x)
        self._widen("channel", x.amin(1), x.amax(1), step)
        self._widen("pixel", x.amin(2), x.amax(2), step)

    def _widen(self, axis: str, low: Tensor, high: Tensor, step: Tensor) -> None:
        # Groups and scales are computed from them, which takes float32 for every input dtype.
        low, high = low.float(), high.float()
        low_name, high_name = f"{axis}_low", f"{axis}_high"
        if getattr(self, low_name).numel() == 0:
            shape = (self.n_steps, low.shape[1])
            setattr(self, low_name, low.new_full(shape, torch.inf))
            setattr(self, high_name, high.new_full(shape, -torch.inf))
        rows = step[:, None].expand_as(low)
        getattr(self, low_name).scatter_reduce_(0, rows, low, "amin")
        getattr(self, high_name).scatter_reduce_(0, rows, high, "amax")

    @property
    def channels(self) -> Ranges:
        """Ranges by channel, or of the whole tensor as if it had one channel."""
        return Ranges(self.channel_low, self.channel_high)

    @property
    def pixels(self) -> Ranges | None:
        """Ranges by pixel (token); ``None`` where only the whole tensor is observed."""
        return Ranges(self.pixel_low, self.pixel_high) if self.pixel_low.numel() else None


def merge_steps(ranges: Ranges) -> Ranges:
    """One range for all steps: ``[steps, members] -> [1, members]``."""
    return Ranges(ranges.low.amin(0, True), ranges.high.amax(0, True))
