"""Base of all activation quantizers: observed ranges become scales and zero points."""

import torch
from torch import Tensor

from dgq.errors import DGQError
from dgq.math.affine import fake_quantize
from dgq.quantizers.buffers import SizedByCheckpoint
from dgq.quantizers.learnable_range import LearnableRange
from dgq.quantizers.observer import RangeObserver, Ranges, merge_steps
from dgq.settings import FLOAT_BITS, ActivationSettings, operand_bits
from dgq.unet.context import QuantizationContext


class RangeQuantizer(SizedByCheckpoint):
    """Affine quantization of an activation with parameters for each step.

    They come from observed ranges (``fit_``) or from a checkpoint. 16 bits pass the input
    unchanged. A subclass says which members of the activation share a scale.

    Args:
        settings: bits, grouping, and whether each step has its own ranges.
        context: mode and step of the UNet.
        per_tensor: one range for the whole tensor (attention scores).
        of_text: tokens are words, which do not move when the latents change their size.
    """

    scale: Tensor
    zero_point: Tensor

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
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("zero_point", torch.empty(0, dtype=torch.int32))

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
        if self.scale.numel() == 0:
            raise DGQError("this activation quantizer has no scales: calibrate or load first")
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """Quantize and dequantize at the context's step."""
        scale, zero_point = self.parameters_of(x)
        # In float32 whatever the input: half precision cannot hold a large zero point.
        quantized = fake_quantize(x.float(), scale.float(), zero_point, self.settings.n_bits)
        return quantized.to(x.dtype)

    def start_observing_(self) -> None:
        """Create an observer; ranges are recorded while the context is observing."""
        self.observer = RangeObserver(self.context.n_steps, self.per_tensor)

    def require_observer(self) -> RangeObserver:
        """The observer; raises TypeError before ``start_observing_``."""
        if self.observer is None:
            raise TypeError("this quantizer does not observe: call start_observing_ first")
        return self.observer

    @torch.no_grad()
    def fit_(self, name: str = "activation") -> None:
        """Choose which members share a scale, from observed ranges; set scales and zero points.

        Raises:
            DGQError: if a step was never observed, or a range is not finite.
        """
        if self.n_bits != FLOAT_BITS:
            self.fit_ranges_(*self.observed(name))

    def fit_ranges_(self, channels: Ranges, pixels: Ranges | None) -> None:
        """Set all parameters.

        Args:
            channels: ranges of the channels.
            pixels: ranges of the pixels (tokens); ``None`` if the tensor is observed as a whole.
        """
        raise NotImplementedError

    def parameters_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element at the context's step, broadcastable to ``x``."""
        raise NotImplementedError

    def start_learning_(self) -> None:
        """Begin learning the ranges that ``fit_`` set."""
        if self.learnable is not None:
            self.learnable.start_(self.scale, self.zero_point)

    @torch.no_grad()
    def harden_(self) -> None:
        """Fix the learned ranges, and free what was learned."""
        if self.learnable is None or not self.learnable.active:
            return
        self.scale, zero_point = self.current_ranges()
        self.zero_point = zero_point.to(torch.int32)
        self.learnable.stop_()

    def current_ranges(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point in the buffers' shapes, fixed or as learned so far."""
        if self.learnable is None or not self.learnable.active:
            return self.scale, self.zero_point
        return self.learnable.corrected(self.scale, self.zero_point, self.settings.n_bits)

    def observed(self, name: str) -> tuple[Ranges, Ranges | None]:
        """Ranges of channels and pixels for each step, or merged over all steps."""
        if self.observer is None or self.observer.channel_low.numel() == 0:
            raise DGQError(
                f"{name} was never observed: call start_observing_, and run samples through "
                "the UNet while it observes"
            )
        channels, pixels = self.observer.channels, self.observer.pixels
        if not self.settings.per_step:
            channels = merge_steps(channels)
            pixels = None if pixels is None else merge_steps(pixels)
        if not bool((channels.high - channels.low).isfinite().all()):
            raise DGQError(
                f"{name} has steps without calibration samples, or values that are not finite: "
                "give every step at least one sample"
            )
        return channels, pixels
