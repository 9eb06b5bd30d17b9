"""The mode of a UNet under calibration: what it quantizes, and whether it observes."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.unet.calls import SamplerCall, SamplerCalls
from dgq.unet.quantized_unet import QuantizedUNet


class QuantizationContext(SamplerCalls):
    """Mode and current call of a UNet under calibration.

    Args:
        timesteps: the scheduler's values that the scales are made for, one for each step.
        latent_size: height and width of the latents that pixel groups are made for.
        warns: warn, once, where the scales are not those of the timestep.
    """

    def __init__(
        self, timesteps: Sequence[float], latent_size: tuple[int, int], warns: bool = True
    ) -> None:
        super().__init__(timesteps, latent_size, warns)
        self.weights = True
        self.activations = True
        self.observing = False


def context_of(unet: nn.Module) -> QuantizationContext:
    """The context of a UNet under calibration.

    Raises:
        DGQError: for a stock UNet, or a packed one that was loaded or frozen.
    """
    if not isinstance(unet, QuantizedUNet):
        raise DGQError(
            f"this {type(unet).__name__} is not quantized: expected a UNet that dgq.quantize_ or "
            "dgq.calibrate has changed"
        )
    if not isinstance(unet.calls, QuantizationContext):
        raise DGQError(
            "a packed model holds no full-precision weights: load the original pipeline to run it "
            "without quantization, or to calibrate it"
        )
    return unet.calls


@contextmanager
def quantization(
    unet: nn.Module, *, weights: bool, activations: bool, observing: bool = False
) -> Iterator[None]:
    """Run the UNet with quantization of weights and activations on or off, then restore the mode.

    Args:
        unet: a UNet under calibration.
        weights: use the quantized weights.
        activations: quantize layer inputs, q, k, v and attention scores.
        observing: record the ranges of the activations, before quantizing them.
    """
    context = context_of(unet)
    before = context.weights, context.activations, context.observing
    context.weights, context.activations, context.observing = weights, activations, observing
    try:
        yield
    finally:
        context.weights, context.activations, context.observing = before


def at_step(calls: SamplerCalls, step: Tensor) -> AbstractContextManager[None]:
    """Run parts of the UNet at these steps, ``[1]`` or ``[batch]``, then restore the call."""
    return calls.during(SamplerCall(step, calls.current_size))
