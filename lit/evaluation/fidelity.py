"""How far the quantized UNet's outputs are from full precision, at each sampler step."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from diffusers import DiffusionPipeline
from rich.progress import Progress
from torch import Tensor, nn

from lit.evaluation.batching import batched
from lit.evaluation.generation import Sampling, sample


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
        reference = reference.double()
        self._signal[step] += reference.square().sum().item()
        self._noise[step] += (reference - output.double()).square().sum().item()

    def per_step(self) -> list[float]:
        """Signal to quantization noise ratio in dB of each step; infinite where nothing differs."""
        return [sqnr_db(s, n) for s, n in zip(self._signal, self._noise, strict=True)]


def sqnr_db(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)`` of two energies; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def unet_sqnr(
    pipeline: DiffusionPipeline,
    quantized: nn.Module,
    prompts: Sequence[str],
    sampling: Sampling,
    batch_size: int,
    progress: Progress,
) -> list[float]:
    """SQNR in dB of the quantized UNet's output at each step, on the full-precision trajectory.

    Each call that the full-precision UNet gets while it samples is repeated by the quantized one
    with the very same inputs, so that errors do not pile up from step to step. With guidance, both
    halves of the batch count.
    """
    meter = SqnrMeter()
    task = progress.add_task("SQNR of the UNet", total=len(prompts))
    for batch in batched(range(len(prompts)), batch_size):
        with _shadowing(pipeline.unet, quantized, meter):
            sample(pipeline, prompts, batch, sampling, output_type="latent")
        progress.advance(task, len(batch))
    return meter.per_step()


def record_call(
    pipeline: DiffusionPipeline, prompt: str, sampling: Sampling
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the first UNet call that the pipeline makes for a prompt."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        raise _EnoughError

    handle = pipeline.unet.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        sample(pipeline, [prompt], [0], sampling, output_type="latent")
    except _EnoughError:
        pass
    finally:
        handle.remove()
    return calls[0]


class _EnoughError(Exception):
    """Leaves a sampling loop whose first call is all that is wanted."""


@contextmanager
def _shadowing(unet: nn.Module, shadow: nn.Module, meter: SqnrMeter) -> Iterator[None]:
    """Repeat each call of ``unet`` with ``shadow``, which sees exactly the same inputs."""
    steps = count()

    def repeat(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        meter.update(next(steps), out[0], shadow(*args, **kwargs)[0])

    handle = unet.register_forward_hook(repeat, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
