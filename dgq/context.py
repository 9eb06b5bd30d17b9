"""What the quantized modules of one UNet share: the mode they are in and the step of the call."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

ATTRIBUTE = "quantization_context"


class QuantizationContext:
    """Mode and sampler step of a quantized UNet; each quantized module holds a reference.

    Args:
        timesteps: the scheduler's values that the scales are made for, one for each step.
        latent_size: height and width of the latents that pixel groups are made for.
    """

    def __init__(self, timesteps: Sequence[float], latent_size: tuple[int, int]) -> None:
        self.timesteps = tuple(float(t) for t in timesteps)
        self.latent_size = latent_size
        self.weights = True
        self.activations = True
        self.observing = False
        self.step = torch.zeros(1, dtype=torch.long)
        self.current_size = latent_size
        self._warned = False

    @property
    def n_steps(self) -> int:
        """Number of calibrated steps."""
        return len(self.timesteps)

    def read_call(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the UNet: note the step and the latent size of this call."""
        sample = args[0] if args else kwargs["sample"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        self.current_size = (int(sample.shape[-2]), int(sample.shape[-1]))
        self.step = self.step_of(torch.as_tensor(timestep, device=sample.device))

    @contextmanager
    def narrowed(self, rows: slice) -> Iterator[None]:
        """Speak of some rows of the batch only; restores the steps of all."""
        before = self.step
        self.step = before[rows] if before.shape[0] > 1 else before
        try:
            yield
        finally:
            self.step = before

    def step_of(self, timestep: Tensor) -> Tensor:
        """Index of the calibrated step of each timestep, the nearest if there is no exact one.

        Args:
            timestep: 0-d or ``[batch]``.

        Returns:
            ``[1]`` or ``[batch]``, long.
        """
        known = torch.tensor(self.timesteps, device=timestep.device)
        distance = (timestep.reshape(-1, 1).to(known.dtype) - known).abs()
        gap, step = distance.min(1)
        if not self._warned and bool((gap > 1e-3).any()):
            self._warned = True
            warnings.warn(
                "this sampler visits timesteps that were not calibrated; the scales of the nearest "
                "calibrated timestep are used",
                stacklevel=2,
            )
        return step

    def pixel_index(self, n_pixels: int, calibrated: int) -> Tensor | None:
        """Where each pixel of this call lies among the calibrated ones; ``None`` if they agree.

        Nearest-neighbour resizing of the ``calibrated``-pixel map to the current latent size, so
        that pixel groups survive another resolution, and another aspect of the same area.
        """
        if self.current_size == self.latent_size:
            return None
        height, width = grid_size(n_pixels, self.current_size)
        old_height, old_width = grid_size(calibrated, self.latent_size)
        rows = (torch.arange(height) * old_height) // height
        columns = (torch.arange(width) * old_width) // width
        return (rows[:, None] * old_width + columns).flatten()


def word_index(n_words: int, calibrated: int) -> Tensor:
    """Where each word of a text lies among the calibrated ones; surplus ones are as the last."""
    return torch.arange(n_words).clamp(max=calibrated - 1)


def grid_size(n_pixels: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a feature map of ``n_pixels`` with the aspect of the latents."""
    height = max(1, round(latent_size[0] * math.sqrt(n_pixels / (latent_size[0] * latent_size[1]))))
    if n_pixels % height:
        return 1, n_pixels
    return height, n_pixels // height


def context_of(unet: nn.Module) -> QuantizationContext:
    """The context of a quantized UNet; raises TypeError for a UNet that is not quantized."""
    context = getattr(unet, ATTRIBUTE, None)
    if context is None:
        raise TypeError("this UNet is not quantized: call dgq.quantize_ on it first")
    return context


@contextmanager
def quantization(
    unet: nn.Module, *, weights: bool, activations: bool, observing: bool = False
) -> Iterator[None]:
    """Run the UNet with quantization of weights and activations on or off; restores the mode.

    Args:
        unet: a quantized UNet.
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


@contextmanager
def at_step(unet: nn.Module, step: Tensor) -> Iterator[None]:
    """Run parts of the UNet for samples of these steps, ``[1]`` or ``[batch]``; restores them."""
    context = context_of(unet)
    before, context.step = context.step, step
    try:
        yield
    finally:
        context.step = before
