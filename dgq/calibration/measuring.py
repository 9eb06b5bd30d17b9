"""How far a quantized UNet is from the full-precision UNet, on given calls."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dgq.calibration.runtime import Runtime
from dgq.math.reconstruction import decibels, noise_and_signal
from dgq.unet.call_rows import Call, to_device
from dgq.unet.context import quantization


def sqnr_by_step(unet: nn.Module, by_step: Mapping[float, Sequence[Call]]) -> dict[float, float]:
    """SQNR in decibels of the UNet's output at each timestep, with everything quantized.

    Args:
        unet: a calibrated UNet.
        by_step: calls of each timestep.
    """
    return {timestep: sqnr_db(unet, calls) for timestep, calls in by_step.items()}


@torch.no_grad()
def sqnr_db(unet: nn.Module, calls: Sequence[Call]) -> float:
    """SQNR in decibels of the UNet's output over some calls, with everything quantized."""
    parts = [_noise_and_signal(unet, call) for call in calls]
    noise, signal = sum(parts, torch.zeros(2)).tolist()
    return decibels(noise, signal)


def summed(noise_and_signal: Tensor, runtime: Runtime) -> tuple[float, float]:
    """Noise and signal ``[2]`` over all processes; the signal is never 0."""
    noise, signal = runtime.reduce(noise_and_signal.to(runtime.device), "sum").tolist()
    return noise, max(signal, 1e-20)


def _noise_and_signal(unet: nn.Module, call: Call) -> Tensor:
    device = next(unet.parameters()).device
    arguments = to_device(dict(call), device)
    with quantization(unet, weights=False, activations=False):
        reference = unet(**arguments)[0]
    with quantization(unet, weights=True, activations=True):
        return noise_and_signal(unet(**arguments)[0], reference).cpu()
