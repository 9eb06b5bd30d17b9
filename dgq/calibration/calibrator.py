"""The work at each target and between targets; a driver only counts.

A driver enters each target, requests its loss at each learning step, hardens it, and moves on.
``dgq.calibrate`` does this in a plain loop, the repository's command line through Lightning.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dgq.calibration import learning as learn
from dgq.calibration.measuring import summed
from dgq.calibration.network_learning import harden_network_, start_learning_network_
from dgq.calibration.phase_timer import PhaseTimer
from dgq.calibration.runtime import Reduction, Runtime
from dgq.calibration.samples_at_targets import SamplesAtTargets
from dgq.errors import DGQError
from dgq.math.reconstruction import decibels, reconstruction_loss
from dgq.recipes.recipe import Recipe
from dgq.settings import QuantizationSettings
from dgq.streams.waiting import Waiting
from dgq.targets import NETWORK, Network, Target, execution_order
from dgq.unet.absorb import absorb_multiples_
from dgq.unet.call_rows import Call
from dgq.unet.context import quantization
from dgq.unet.quantize import fit_activations_, quantize_, start_observing_


class Calibrator:
    """Reconstructs the targets of a UNet in execution order, changing the UNet in place.

    Args:
        unet: a stock UNet, in evaluation mode, without gradients.
        recipe: what is quantized, what is reconstructed, and how.
        batch_size: rows that run through a target at once to measure and observe it.
        runtime: where it computes; a driver that learns this late sets it before ``start``.
    """

    def __init__(
        self,
        unet: nn.Module,
        recipe: Recipe,
        batch_size: int = 16,
        runtime: Runtime | None = None,
    ) -> None:
        self.unet = unet
        self.recipe = recipe
        self.settings = recipe.quantization
        self.learning = recipe.learning
        self.batch_size = batch_size
        self.runtime = runtime or Runtime(torch.device("cpu"))
        self.targets: dict[str, Target] = {}
        self.records: list[dict[str, Any]] = []
        self.sqnr_db: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.name = ""
        self._samples: SamplesAtTargets | None = None

    # Before the first target

    def quantize_(
        self,
        timesteps: Sequence[float],
        latent_size: tuple[int, int],
        call: Call,
        settings: QuantizationSettings | None = None,
    ) -> None:
        """Make the UNet quantizable, and find the order of its targets.

        Args:
            timesteps: the scheduler's values of the samples.
            latent_size: height and width of the latents.
            call: any call of the UNet, of one sample.
            settings: settings that the recipe chose for this UNet; the recipe's own by default.
        """
        self.settings = settings or self.recipe.settings(self.unet)
        quantize_(self.unet, self.settings, timesteps, latent_size)
        start_observing_(self.unet)
        with quantization(self.unet, weights=False, activations=False):
            found = self.recipe.targets(self.unet)
            order = execution_order(self.unet, found, call)
        self.targets = {name: found[name] for name in order}
        if self.recipe.visits_network:
            self.targets[NETWORK] = Network(self.unet)

    def start(
        self,
        calls: Sequence[Call],
        held_out: Sequence[Call],
        places: Iterator[Waiting],
        n_finished: int = 0,
    ) -> None:
        """Bring all samples to the first target, or to the one where a resumed run continues.

        Args:
            calls: calls to learn on, one for each micro-batch.
            held_out: calls to measure errors on, from held-out samples.
            places: where samples wait.
            n_finished: number of targets that are already hardened.
        """
        with self.phase("capture"):
            self._samples = SamplesAtTargets(
                self.unet, self.targets, calls, held_out, places, self.runtime.device
            )
            for _ in range(n_finished):
                self.samples.advance_reference()
                self.samples.advance_quantized(self.observes_on_the_way)

    # One target

    @property
    def n_blocks(self) -> int:
        """Targets before the UNet as a whole."""
        return len(self.targets) - self.recipe.visits_network

    @property
    def target(self) -> Target:
        """The current target."""
        return self.targets[self.name]

    @property
    def samples(self) -> SamplesAtTargets:
        """All samples; available after ``start``."""
        assert self._samples is not None
        return self._samples

    @property
    def observes_on_the_way(self) -> bool:
        """Whether activations are observed as the streams advance, not in order to learn ranges."""
        return not self.learning.learns_ranges

    def enter(self, name: str) -> None:
        """Capture a target's references, start from rounding to nearest, and measure its error."""
        self.name = name
        if isinstance(self.target, Network):
            self.enter_network(self.target)
            return
        with self.phase("capture"):
            self.samples.advance_reference()
        with self.phase("range search"):
            learn.start_learning_(self.target)
        learn.set_soft_rounding_(self.target, False)
        self.records.append({"target": name})
        self.records[-1]["error_nearest"] = self.error()
        learn.set_soft_rounding_(self.target, self.learning.iterations > 0)

    def enter_network(self, network: Network) -> None:
        """Fix all ranges, measure the error of all targets together, and start learning."""
        self.fix_ranges()
        self.records.append({"target": self.name})
        self.records[-1]["error_nearest"] = self.error(activations=True)
        assert self.recipe.network is not None
        start_learning_network_(network, self.recipe.network)

    def begin_step(self, iteration: int) -> None:
        """Switch to the polish after the last step on the rounding."""
        if iteration == self.learning.iterations and not isinstance(self.target, Network):
            self.fix_rounding()

    def learns(self, iteration: int) -> bool:
        """Whether anything of the current target can be learned at this iteration."""
        if iteration >= self.learning.total_iterations:
            return False
        return bool(learn.layers_of(self.target)) or learn.learns_ranges(self.target)

    def loss(self, rows: Tensor, iteration: int) -> Tensor:
        """Reconstruction error of the target on samples ``rows [n]``, plus a penalty."""
        output = self.samples.visit(self.target).output_and_reference(
            rows, learn.learns_ranges(self.target)
        )
        return reconstruction_loss(*output) + learn.penalty(self.target, iteration, self.learning)

    def fix_rounding(self) -> None:
        """Switch to hard rounding, observe the activations, and start learning their ranges."""
        learn.set_soft_rounding_(self.target, False)
        if self.learning.learns_ranges:
            with self.phase("observation"):
                self.samples.visit(self.target).observe(self.batch_size)
                self.share_ranges()
            learn.start_learning_ranges_(self.target)

    def share_ranges(self) -> None:
        """Widen the ranges of the current target by those of the other processes, exactly."""
        for quantizer in learn.quantizers_of(self.target):
            for name, buffer in quantizer.require_observer().named_buffers():
                if buffer.numel():
                    side: Reduction = "min" if name.endswith("low") else "max"
                    buffer.copy_(self.runtime.reduce(buffer, side))

    def harden_(self) -> None:
        """End the learning of the current target, and measure it."""
        if isinstance(self.target, Network):
            self.harden_network_(self.target)
            return
        learned_ranges = learn.learns_ranges(self.target)
        learn.harden_(self.target)
        learn.harden_ranges_(self.target)
        self.records[-1]["error"] = self.error()
        if learned_ranges:
            # Weights were learned for quantized activations, so nearest rounding is no fair
            # comparison.
            self.records[-1]["error_quantized"] = self.error(activations=True)
        elif self.recipe.keeps_better:
            self.keep_better()

    def keep_better(self) -> None:
        """Round the current target to nearest if learning has made it worse on held-out samples."""
        if self.records[-1]["error"] > self.records[-1]["error_nearest"]:
            learn.start_learning_(self.target)
            learn.harden_(self.target)
            self.records[-1]["error"] = self.records[-1]["error_nearest"]

    def harden_network_(self, network: Network) -> None:
        """End the learning; discard it unless the error on held-out samples has fallen."""
        error, before = self.measured_error(activations=True), self.records[-1]["error_nearest"]
        keep = error < before  # False where it is not finite
        harden_network_(network, keep)
        self.records[-1]["error"] = error if keep else before

    def propagate(self) -> None:
        """Move on to the next target; after the last one, finish."""
        if not isinstance(self.target, Network):
            with self.phase("observation"):
                self.samples.advance_quantized(self.observes_on_the_way)
                self.share_ranges()
        if self.complete:
            self.finish()

    # Measuring

    def error(self, activations: bool = False) -> float:
        """Relative squared error of the target's output on the held-out samples.

        Raises:
            DGQError: if it is not finite.
        """
        error = self.measured_error(activations)
        if not math.isfinite(error):
            raise DGQError(
                f"{self.name}: the relative error is {error}; lower the learning rates, "
                "and check that the pipeline draws sensible images"
            )
        return error

    def measured_error(self, activations: bool) -> float:
        """``error`` without the check that it is finite."""
        with self.phase("measuring"):
            held_out = self.samples.visit(self.target, held_out=True)
            parts = held_out.noise_and_signal(self.batch_size, activations)
        noise, signal = summed(parts, self.runtime)
        return noise / signal

    @property
    def complete(self) -> bool:
        """Whether every target has been hardened."""
        return len(self.records) == len(self.targets) > 0 and "error" in self.records[-1]

    def finish(self) -> None:
        """Choose axes, groups and scales of the activations, and measure the whole UNet."""
        if not self.recipe.visits_network:
            self.fix_ranges()
        self.sqnr_db = {
            "weights": self.output_sqnr_db(activations=False),
            "all": self.output_sqnr_db(activations=True),
        }

    def fix_ranges(self) -> None:
        """Choose the ranges of activations that are still open; weights absorb multiples."""
        if self.learning.learns_ranges:
            absorb_multiples_(self.unet)
        else:
            fit_activations_(self.unet)

    def output_sqnr_db(self, activations: bool) -> float:
        """SQNR in decibel of the UNet's outputs for the held-out samples, weights quantized."""
        with self.phase("measuring"):
            parts = self.samples.output_noise_and_signal(activations)
        return decibels(*summed(parts, self.runtime))

    def close(self) -> None:
        """Drop all samples."""
        if self._samples is not None:
            self._samples.close()

    @cached_property
    def timer(self) -> PhaseTimer:
        """A timer that adds to ``seconds``."""
        return PhaseTimer(self.runtime.device, self.seconds)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Compute in the runtime's precision, and count the seconds of a phase."""
        with self.timer.phase(name), self.runtime.precision():
            yield
