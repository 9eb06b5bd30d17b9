"""Which samples of recorded calls are learned on, and which are held out."""

from collections.abc import Sequence

import torch

from dgq.calibration.given_calls import timestep_of
from dgq.calibration.samples import Samples, Sampling
from dgq.errors import DGQError
from dgq.unet.call_rows import Call, Sample, combined

HELD_OUT_PART = 8
"""Of this many samples of a timestep, one is held out."""

MEASURED_AT_EACH_STEP = 4


def samples_of_calls(
    samples: Sequence[Sample], held_out: Sequence[Sample] | None, sampling: Sampling
) -> Samples:
    """Samples to learn on, evenly over the timesteps, and samples to measure on.

    Args:
        samples: samples of all calls, in order.
        held_out: samples to measure on; by default the last eighth at each timestep, at least one.
        sampling: how many samples, and their seed.

    Raises:
        DGQError: if nothing can be held out, or there are too few samples.
    """
    by_step = of_timesteps(samples)
    if held_out is None:
        measured = {t: group[len(group) - n_held_out(group) :] for t, group in by_step.items()}
        by_step = {t: group[: len(group) - n_held_out(group)] for t, group in by_step.items()}
    else:
        measured = of_timesteps(held_out)
        others = sorted(measured.keys() - by_step.keys())
        if others:
            raise DGQError(f"held_out has calls at timestep {others[0]:g}, the calls have none")
    if not any(measured.values()):
        raise DGQError(
            "there is one sample at each timestep, so that none can be held out to measure errors "
            "on: record more prompts, or give calls to measure on (held_out=...)"
        )
    chosen = evenly(by_step, sampling.n_samples, sampling.seed)
    judged = spread([s for group in measured.values() for s in group], sampling.n_held_out)
    latents = chosen[0]["sample"]
    latent_size = (int(latents.shape[-2]), int(latents.shape[-1]))
    size = sampling.at_once(latents.shape[0], latent_size)
    return Samples(
        in_calls(chosen, size),
        in_calls(judged, size),
        {t: in_calls(spread(g, MEASURED_AT_EACH_STEP), size) for t, g in measured.items() if g},
        latent_size,
        len(chosen),
        len(judged),
        tuple(by_step),
    )


def of_timesteps(samples: Sequence[Sample]) -> dict[float, list[Sample]]:
    """Samples by timestep, from noise to image."""
    groups: dict[float, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(timestep_of(sample), []).append(sample)
    return dict(sorted(groups.items(), reverse=True))


def n_held_out(group: Sequence[Sample]) -> int:
    """How many samples of a timestep are held out; none if there is only one."""
    return 0 if len(group) < 2 else max(1, len(group) // HELD_OUT_PART)


def evenly(by_step: dict[float, list[Sample]], n_samples: int | None, seed: int) -> list[Sample]:
    """The same number of samples of each timestep, in random order; all by default."""
    n_all = sum(len(group) for group in by_step.values())
    if n_samples is not None and not len(by_step) <= n_samples <= n_all:
        raise DGQError(
            f"n_samples must be {len(by_step)} (one for each timestep) to {n_all} (all that are "
            f"not held out), got {n_samples}"
        )
    each = None if n_samples is None else n_samples // len(by_step)
    generator = torch.Generator().manual_seed(seed)
    chosen = [
        group[index]
        for group in by_step.values()
        for index in torch.randperm(len(group), generator=generator)[:each].tolist()
    ]
    return [chosen[index] for index in torch.randperm(len(chosen), generator=generator).tolist()]


def spread(samples: Sequence[Sample], n: int) -> list[Sample]:
    """At most ``n`` samples, spread evenly over all of them."""
    n = min(n, len(samples))
    return [samples[index * len(samples) // n] for index in range(n)]


def in_calls(samples: Sequence[Sample], size: int) -> list[Call]:
    """Calls of up to ``size`` samples each."""
    return [combined(samples[first : first + size]) for first in range(0, len(samples), size)]
