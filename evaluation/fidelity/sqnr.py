"""SQNR of a quantized UNet's outputs against full precision, at each sampler step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dgq.math.reconstruction import decibels
from evaluation.batching import batched
from evaluation.fidelity.trajectory import load_trajectories


class SqnrMeter:
    """Energies of a reference and of an error, accumulated for each step in float64."""

    def __init__(self) -> None:
        self._signal: list[float] = []
        self._noise: list[float] = []

    def update(self, step: int, reference: Tensor, output: Tensor) -> None:
        """Add the outputs of one call, both of the same shape."""
        while len(self._signal) <= step:
            self._signal.append(0.0)
            self._noise.append(0.0)
        reference, output = reference.cpu().double(), output.cpu().double()
        self._signal[step] += reference.square().sum().item()
        self._noise[step] += (reference - output).square().sum().item()

    def per_step(self) -> list[float]:
        """Signal to quantization noise ratio in dB of each step; infinite where nothing differs."""
        return [
            decibels(noise, signal) if noise else math.inf
            for noise, signal in zip(self._noise, self._signal, strict=True)
        ]


@dataclass(frozen=True)
class Sqnr:
    """SQNR in dB of the UNet's output at each step.

    Args:
        plain: SQNR of the UNet's output; with guidance, of both halves of the batch.
        guided: SQNR of ``u + g (c - u)``, which the sampler uses; None without guidance.
    """

    plain: list[float]
    guided: list[float] | None


@torch.no_grad()
def unet_sqnr(
    unet: nn.Module,
    trajectories: Sequence[Path],
    guidance_scale: float,
    batch_size: int,
    device: str | torch.device,
    advance: Callable[[int], None],
) -> Sqnr:
    """SQNR of a UNet's outputs on the recorded full-precision trajectories.

    Each recorded call is repeated with the same inputs, so that errors do not accumulate from step
    to step.

    Args:
        unet: the quantized UNet.
        trajectories: files, one for each prompt.
        guidance_scale: the scale they were drawn with.
        batch_size: prompts at a time.
        device: device of the UNet.
        advance: called with the number of prompts after each batch.
    """
    plain, guided = SqnrMeter(), SqnrMeter()
    is_guided = False
    for paths in batched(trajectories, batch_size):
        trajectory = load_trajectories(paths)
        is_guided = trajectory.samples.shape[1] == 2
        for step, (call, reference) in enumerate(trajectory.calls(device)):
            output = unet(**call)[0]
            plain.update(step, reference, output)
            if is_guided:
                both = guide(reference, guidance_scale), guide(output, guidance_scale)
                guided.update(step, *both)
        advance(len(paths))
    return Sqnr(plain.per_step(), guided.per_step() if is_guided else None)


def guide(output: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: [2 N, ...], the unconditional half first, -> [N, ...]."""
    unconditional, conditional = output.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)
