"""The difference between a quantized output and the full-precision one."""

import math

import torch
from torch import Tensor


def feature_dim(x: Tensor) -> int:
    """The feature dimension: 1 for ``[batch, channels, height, width]``, else the last."""
    return 1 if x.ndim == 4 else x.ndim - 1


def reconstruction_loss(output: Tensor, reference: Tensor) -> Tensor:
    """Squared error, summed over the features and averaged over everything else (BRECQ)."""
    return (output - reference).pow(2).sum(feature_dim(reference)).mean()


def noise_and_signal(output: Tensor, reference: Tensor) -> Tensor:
    """``[2]``: the sums of ``|output - reference|^2`` and ``|reference|^2``, which can be added.

    In float32, whatever the precision of both.
    """
    output, reference = output.float(), reference.float()
    return torch.stack([(output - reference).pow(2).sum(), reference.pow(2).sum()])


def decibels(noise: float, signal: float) -> float:
    """``10 log10(signal / noise)`` of two energies, at most 200."""
    signal = max(signal, 1e-20)
    return 10 * math.log10(signal / max(noise, 1e-20 * signal))


def relative_error(output: Tensor, reference: Tensor) -> Tensor:
    """``|output - reference|^2 / |reference|^2``; 0 is perfect, 1 as bad as predicting zero."""
    return (output - reference).pow(2).sum() / reference.pow(2).sum().clamp(min=1e-20)


def sqnr_db(output: Tensor, reference: Tensor) -> Tensor:
    """Signal to quantization noise ratio in decibel; higher is better."""
    return -10 * torch.log10(relative_error(output, reference))
