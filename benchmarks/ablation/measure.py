"""How far a quantized model is from full precision on held-out prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.ablation.held_out import HeldOut
from dgq.inspection.cost import count_operations
from dgq.math.reconstruction import decibels
from dgq.storage.checkpoint import find_model, load_quantized_unet
from evaluation.metrics.bootstrap import Weights, bootstrap_interval

Energies = NDArray[np.float64]
"""``[calls, prompts]``."""


@torch.no_grad()
def measure(folder: Path, held_out: HeldOut, n_prompts: int) -> dict[str, Any]:
    """Figures of a model as it runs on this machine, as JSON can hold them.

    Args:
        folder: folder of the quantized model.
        held_out: calls and outputs in full precision.
        n_prompts: number of prompts, from the first, to measure on.
    """
    unet = load_quantized_unet(folder)
    n_calls = held_out.calls.latents.shape[0]
    signal, noise = np.zeros((2, n_calls, n_prompts))
    batches = list(held_out.batches(n_prompts))
    for call, prompts, arguments in track(batches, description=folder.name):
        reference = held_out.outputs[call, prompts].double().flatten(1)
        found = unet(**arguments)[0].unflatten(0, (reference.shape[0], -1)).double().flatten(1)
        signal[call, prompts] = reference.square().sum(1).numpy()
        noise[call, prompts] = (reference - found).square().sum(1).numpy()
    one = held_out.calls.batch(torch.tensor([[0, 0]]))
    return figures(signal, noise) | {
        "gbops": count_operations(unet, (), one).bops / 1e9,
        "megabytes": find_model(folder).size() / 1e6,
        "integer_layers": unet.execution.integer_layers,
        "execution": str(unet.execution),
    }


def figures(signal: Energies, noise: Energies) -> dict[str, Any]:
    """SQNR in dB, pooled over steps and prompts, with its interval, and by step.

    Args:
        signal: energies of the outputs in full precision, ``[calls, prompts]``.
        noise: energies of the differences.
    """
    by_prompt = signal.sum(0), noise.sum(0)
    return {
        "sqnr_db": decibels(noise.sum(), signal.sum()),
        "interval_db": list(interval(*by_prompt)),
        "sqnr_by_step_db": [
            decibels(n, s) for n, s in zip(noise.sum(1), signal.sum(1), strict=True)
        ],
        "signal_by_prompt": rounded(by_prompt[0]),
        "noise_by_prompt": rounded(by_prompt[1]),
        "n_prompts": int(signal.shape[1]),
    }


def interval(signal: Energies, noise: Energies) -> tuple[float, float]:
    """The 95 % interval of the pooled SQNR, drawing the prompts again."""
    return bootstrap_interval(lambda w: decibels(float(w @ noise), float(w @ signal)), len(signal))


def gain_interval(
    signal: Sequence[float], better: Sequence[float], worse: Sequence[float]
) -> tuple[float, float]:
    """The 95 % interval of one model's gain in dB over another on the same prompts.

    Args:
        signal: energy of each prompt in full precision.
        better: energy of one model's noise.
        worse: energy of the other's.
    """
    s, b, w = (np.asarray(values) for values in (signal, better, worse))

    def difference(drawn: Weights) -> float:
        energy = float(drawn @ s)
        return decibels(float(drawn @ b), energy) - decibels(float(drawn @ w), energy)

    return bootstrap_interval(difference, len(s))


def rounded(values: Energies) -> list[float]:
    """Values to six digits, to keep the JSON short."""
    return [float(f"{value:.6g}") for value in values]
