"""Recipes of learning compared on single targets, all from the same inputs.

The network is rounded and learned by one fixed recipe (``PREFIX``), and every fifth target is kept
aside with its inputs and references: on such a problem any recipe can be tried alone.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from benchmarks.outlier_unet import build_calls, build_unet
from dgq import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    WeightSettings,
    quantize_,
)
from dgq.calibration import learning as learn
from dgq.math.reconstruction import reconstruction_loss, relative_error
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.visit import Visit
from dgq.targets import Target, execution_order, find_blocks
from dgq.unet.context import quantization

# Fixed, so that problems stay the same when the defaults change.
PREFIX = LearningSettings(
    iterations=200,
    polish_iterations=60,
    rounding_lr=0.2,
    scale_lr=0.02,
    polish_lr=0.005,
    penalty=0.05,
    warmup=0.2,
    activation_lr=0,
)
PUBLISHED = LearningSettings(
    iterations=1000,
    polish_iterations=0,
    rounding_lr=1e-3,
    scale_lr=0,
    polish_lr=0,
    activation_lr=0,
    decay="constant",
    penalty=0.01,
    warmup=0.2,
)
N_PROMPTS, N_HELD_OUT_PROMPTS = 16, 4
MICRO_BATCH = 16
BATCH = 8
EVERY = 5


@dataclass(frozen=True)
class Problem:
    """One target to learn, and the streams that wait at it.

    Args:
        name: of the target.
        target: with full-precision weights, not learned yet.
        streams: samples waiting at it; the first are learned on, the others held out.
        n_learned: samples to learn on.
    """

    name: str
    target: Target
    streams: PairedStreams
    n_learned: int

    @property
    def visit(self) -> Visit:
        """The target with all samples."""
        return Visit(self.target, self.streams)

    @torch.no_grad()
    def held_out_error(self) -> float:
        """Relative squared error on the rows that nothing was learned on."""
        rows = torch.arange(self.n_learned, self.streams.n_rows)
        return float(relative_error(*self.visit.output_and_reference(rows, activations=False)))


def solve_(
    problem: Problem, settings: LearningSettings, batch_size: int = BATCH, seed: int = 0
) -> tuple[float, float]:
    """Learn one target by a recipe; held-out error and CPU seconds of the learning."""
    learn.start_learning_(problem.target)
    learn.set_soft_rounding_(problem.target, settings.iterations > 0)
    optimizer, schedule = learn.make_optimizer(problem.target.parts(), settings)
    batches = row_batches(problem.n_learned, batch_size, seed)
    started = time.process_time()
    for iteration, rows in enumerate(islice(batches, settings.total_iterations)):
        if iteration == settings.iterations:
            learn.set_soft_rounding_(problem.target, False)
        loss = reconstruction_loss(*problem.visit.output_and_reference(rows, False))
        optimizer.zero_grad()
        (loss + learn.penalty(problem.target, iteration, settings)).backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - started
    learn.harden_(problem.target)
    return problem.held_out_error(), seconds


def row_batches(n_rows: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of row indices; every row once before any twice."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n_rows, generator=generator).split(batch_size)


def problems(keep: tuple[str, ...]) -> Iterator[Problem]:
    """Every fifth target in execution order, from a stream that the prefix's recipe quantizes.

    Each is to be solved before the next is asked for. Layers that a pattern of ``keep`` matches are
    no targets.
    """
    calls = build_calls(N_PROMPTS + N_HELD_OUT_PROMPTS)
    settings = QuantizationSettings(WeightSettings(4), ActivationSettings(8, n_groups=8), keep=keep)
    unet = build_unet().requires_grad_(False)
    quantize_(unet, settings, calls.distinct_timesteps, calls.latent_size)
    pairs = torch.cartesian_prod(torch.arange(N_PROMPTS + N_HELD_OUT_PROMPTS), torch.arange(4))
    batches = [calls.batch(part) for part in pairs.flip(1).split(MICRO_BATCH)]
    found = find_blocks(unet, settings.keep)
    with quantization(unet, weights=False, activations=False):
        order = execution_order(unet, found, batches[0])
    streams = PairedStreams(unet, {name: found[name] for name in order}, batches)
    for index, name in enumerate(order):
        streams.refer()
        problem = Problem(name, found[name], streams, 4 * N_PROMPTS)
        if index % EVERY == 0:
            yield problem
        solve_(problem, PREFIX, seed=index)
        streams.leave()
    streams.close()
