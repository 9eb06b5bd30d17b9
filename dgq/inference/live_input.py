"""Inference quantizer of an activation that uses each sample's own range."""

import torch
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import channel_ranges
from dgq.quantizers.channel_lookup import by_channel
from dgq.quantizers.live_ranges import live_parameters, own_step, sample_ranges
from dgq.quantizers.observer import Ranges


class LiveInput(ChannelInput):
    """Channels whose scales are fixed multiples of a scale that each sample has of its own.

    ``multiple [channels]``; ``scale [1]`` is relative to the sample's own, ``zero_point
    [1, channels]`` added to the sample's own (``dgq.quantizers.live_ranges``).
    """

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every channel of each sample."""
        scale, zero_point = self._of_samples(sample_ranges(x))
        return by_channel(scale[:, None] * self.multiple, x), by_channel(zero_point, x)

    def codes(self, x: Tensor, padding: tuple[int, ...] = ()) -> QuantizedTensor:
        """Quantize ``[batch, ..., channels]``, for convolutions with padding around the pixels.

        Raises:
            DGQError: where a gradient is wanted, which integers do not have.
        """
        self.check_no_gradient(x)
        ranges = sample_ranges(x) if x.ndim == 2 else Ranges(*channel_ranges(x))
        scale, zero_point = self._of_samples(ranges)
        zero_point, step = zero_point.expand(-1, x.shape[-1]), own_step(x)
        zeros = zero_point.to(torch.int16).contiguous()
        tables = (scale, self.channel_multiple, zeros, self.code_factor)
        assert self.products is not None
        with self.calls.noting(x) as spoilt:
            codes = self.products.quantize(
                x, tables, step, self.largest, list(padding), self.offset, spoilt
            )
        of_zero = (zero_point * self.code_factor - (self.offset or 0)).to(codes.dtype)
        return QuantizedTensor(codes, scale, step, x.dtype, of_zero)

    def _of_samples(self, ranges: Ranges) -> tuple[Tensor, Tensor]:
        """Scale ``[batch]`` and zero point ``[batch, channels]``."""
        return live_parameters(ranges, self.multiple, self.n_bits, self.scale, self.zero_point)

    def has_code_of_zero(self) -> bool:
        """True, since zero is in every range."""
        return True

    def problem(self) -> str | None:
        """What is wrong with loaded tensors, if anything."""
        if self.scale.numel() != 1:
            return f"{self.scale.numel()} rows of scales, expected one, for all steps"
        return super().problem()
