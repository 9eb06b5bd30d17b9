"""The samples of a calibration: those to learn on, and those held out to measure on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dgq.calibration.row_batches import check_seed
from dgq.calibration.unet_calls import UNetCalls
from dgq.settings import check_positive
from dgq.unet.call_rows import Call

MOST_LATENT_PIXELS = 2**14
"""Pixels of latents that run through the UNet at once: four samples of SD 1.4, two if guided."""


@dataclass(frozen=True)
class Sampling:
    """Which samples are used, and how many at a time.

    Args:
        n_samples: samples to learn on, evenly over the timesteps; all by default. With guidance
            each sample is two rows.
        n_held_out: samples on which the error of each target is measured.
        batch_size: rows in one step of learning.
        micro_batch_size: samples that run through the UNet at once; by default as many as have
            16,384 pixels of latents, at most 32.
        seed: seed of noise, samples and batches.
    """

    n_samples: int | None = None
    n_held_out: int = 16
    batch_size: int = 16
    micro_batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_held_out", "batch_size"):
            check_positive(name, getattr(self, name))
        for name in ("n_samples", "micro_batch_size"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_seed("seed", self.seed)

    def at_once(self, n_rows: int, latent_size: tuple[int, int]) -> int:
        """Number of samples in a micro-batch.

        Args:
            n_rows: rows of each sample.
            latent_size: height and width.
        """
        fitting = MOST_LATENT_PIXELS // (n_rows * latent_size[0] * latent_size[1])
        return self.micro_batch_size or min(32, max(1, fitting))


class Amount(NamedTuple):
    """Numbers of samples.

    Args:
        n_samples: samples to learn on.
        n_held_out: samples to measure targets on.
        n_rows: rows of each sample.
    """

    n_samples: int
    n_held_out: int
    n_rows: int


@dataclass(frozen=True)
class Samples:
    """Arguments of UNet calls.

    Args:
        micro_batches: calls to learn on.
        held_out: calls on which the error of each target is measured.
        by_step: held-out calls by timestep, on which the whole UNet is measured.
        latent_size: height and width of the latents.
        n_samples: samples in ``micro_batches``; each may be several rows.
        n_held_out: samples in ``held_out``.
        timesteps: the scheduler's values, in the order of the sampler.
    """

    micro_batches: Sequence[Call]
    held_out: Sequence[Call]
    by_step: Mapping[float, Sequence[Call]]
    latent_size: tuple[int, int]
    n_samples: int
    n_held_out: int
    timesteps: tuple[float, ...]

    @property
    def amount(self) -> Amount:
        """The numbers of samples."""
        n_rows = sum(call["sample"].shape[0] for call in (*self.micro_batches, *self.held_out))
        each = -(-n_rows // (self.n_samples + self.n_held_out))
        return Amount(self.n_samples, self.n_held_out, each)


def samples_of_prompts(calls: UNetCalls, n_held_out_prompts: int, sampling: Sampling) -> Samples:
    """Samples from the recorded calls of prompts, the last of which are held out.

    Args:
        calls: recorded calls.
        n_held_out_prompts: how many of the last prompts are held out.
        sampling: how many samples, and their seed.

    Raises:
        DGQError: for fewer samples than UNet calls per prompt, or more than were recorded.
    """
    n_prompts = calls.n_prompts - n_held_out_prompts
    pairs = calls.sample_pairs(sampling.n_samples, sampling.seed, n_prompts)
    held_out = calls.held_out_pairs(sampling.n_held_out, n_held_out_prompts)
    size = sampling.at_once(calls.n_halves, calls.latent_size)
    return Samples(
        [calls.batch(part) for part in pairs.split(size)],
        [calls.batch(part) for part in held_out.split(size)],
        {
            timestep: [
                calls.batch(part) for part in pairs_at(calls, timestep, n_prompts).split(size)
            ]
            for timestep in calls.distinct_timesteps
        },
        calls.latent_size,
        len(pairs),
        len(held_out),
        calls.distinct_timesteps,
    )


def pairs_at(calls: UNetCalls, timestep: float, first: int) -> Tensor:
    """Pairs ``[n, 2]`` of each call at a timestep with each prompt from ``first`` on."""
    index = (calls.timesteps == timestep).nonzero().flatten()
    return torch.cartesian_prod(index, torch.arange(first, calls.n_prompts)).view(-1, 2)
