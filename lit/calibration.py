"""The whole calibration as one Lightning fit: an epoch is a target, a batch a step of learning."""

import glob
import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from dgq import learning as learn
from dgq.checkpoint import Manifest, calibration_state, load_calibration_state_
from dgq.context import quantization
from dgq.errors import DGQError
from dgq.fingerprint import network_sha256
from dgq.paired_streams import PairedStreams
from dgq.pipelines import canonical, load_unet
from dgq.quantize import fit_activations_, quantizable_layers, quantize_, start_observing_
from dgq.reconstruction import noise_and_signal, reconstruction_loss
from dgq.settings import LearningSettings, QuantizationSettings, WaitingSettings
from dgq.targets import execution_order, find_targets
from dgq.visit import Visit
from dgq.waiting import Waiting, waiting_rooms
from lit.identity import identity_of
from lit.phase_timer import PhaseTimer


class Calibration(LightningModule):
    """Reconstructs one target after another, in execution order.

    The DataModule offers ``calls`` (timesteps, latent size), ``micro_batches`` (arguments of UNet
    calls) and batches of row indices; everything else is streamed from target to target.

    Args:
        pipeline: the name of an embedded model, a folder, or a hub id.
        quantization: what is quantized and how.
        learning: how weights and ranges are learned.
        waiting: where samples wait for their turn.
    """

    def __init__(
        self,
        pipeline: str = "scenes",
        quantization: QuantizationSettings = QuantizationSettings(),  # noqa: B008 - frozen
        learning: LearningSettings = LearningSettings(),  # noqa: B008 - frozen
        waiting: WaitingSettings = WaitingSettings(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.pipeline = canonical(pipeline)
        self.settings = quantization
        self.learning = learning
        self.waiting = waiting
        self.unet = load_unet(pipeline).requires_grad_(False)
        quantizable_layers(self.unet, quantization.keep)  # refused before anything is recorded
        self.unet_config = dict(self.unet.config)
        self.unet_sha256 = network_sha256(self.unet)
        self.n_targets = len(find_targets(self.unet, quantization.keep))
        if self.n_targets == 0:
            raise DGQError("there is nothing to quantize: quantization.keep matches every layer")
        self.targets: dict[str, torch.nn.Module] = {}
        self.records: list[dict[str, Any]] = []
        self.sqnr_db: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.trainer_identity: dict[str, Any] = {}
        self._streams: PairedStreams | None = None
        self._held_out: PairedStreams | None = None

    @property
    def data(self) -> Any:
        """The DataModule, which this module knows only by what it offers."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # Setting up

    def setup(self, stage: str) -> None:
        """Make the UNet quantizable for the timesteps that were recorded."""
        data = self.data
        quantize_(self.unet, self.settings, data.calls.distinct_timesteps, data.calls.latent_size)
        start_observing_(self.unet)
        with quantization(self.unet, weights=False, activations=False):
            found = find_targets(self.unet, self.settings.keep)
            order = execution_order(self.unet, found, data.calls.batch(torch.tensor([[0, 0]])))
        self.targets = {name: found[name] for name in order}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One Adam over everything learnable; it holds state for the current target only."""
        optimizer, schedule = learn.make_optimizer(self.unet, self.learning)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Bring all streams to the target that this run starts, or goes on, with."""
        self.clear_waiting_folders()
        rooms = waiting_rooms(self.waiting, self.unet, self.waiting_folder)
        with self.phase("capture"):
            self._streams = self._stream(self.data.micro_batches, rooms)
            self._held_out = self._stream(self.data.held_out, rooms)
            for _ in range(self.current_epoch):
                self.refer()
                self.leave()

    @property
    def waiting_folder(self) -> Path:
        """Where this process keeps samples that wait on disk; no other run has the same."""
        run = Path(self.trainer.default_root_dir).resolve()
        digest = hashlib.sha256(str(run).encode()).hexdigest()[:8]
        name = f"waiting-{run.name}-{digest}-{self.trainer.global_rank}"
        return (self.waiting.folder or run) / name

    def clear_waiting_folders(self) -> None:
        """Remove what a killed run left behind, whatever its number of processes."""
        if self.trainer.is_global_zero:
            pattern = glob.escape(self.waiting_folder.name.removesuffix("0")) + "*"
            for folder in self.waiting_folder.parent.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)  # a dying process may still write there
        self.trainer.strategy.barrier()

    def _stream(
        self, calls: Sequence[Mapping[str, Any]], rooms: Iterator[Waiting]
    ) -> PairedStreams:
        on_device = [to_device(call, self.device) for call in calls]
        return PairedStreams(self.unet, self.targets, on_device, rooms)

    # One target

    @cached_property
    def timer(self) -> PhaseTimer:
        """Counts into ``seconds``."""
        return PhaseTimer(self.device, self.seconds)

    @property
    def target_name(self) -> str:
        """Name of the current target."""
        return list(self.targets)[self.current_epoch]

    @property
    def target(self) -> torch.nn.Module:
        """The current target."""
        return self.targets[self.target_name]

    @property
    def streams(self) -> PairedStreams:
        """The samples to learn on; there from the start of the training on."""
        assert self._streams is not None
        return self._streams

    @property
    def held_out(self) -> PairedStreams:
        """Samples that nothing is learned from, on which errors are measured."""
        assert self._held_out is not None
        return self._held_out

    def refer(self) -> None:
        """Run the full-precision streams through the current target."""
        self.streams.refer()
        self.held_out.refer()

    def leave(self) -> None:
        """Run the quantized streams through the current target, and observe it on the way.

        A resumed run passes the finished targets in the same way, since observed attention is
        rounded differently from attention that is not.
        """
        self.streams.leave(observing=not self.learning.learns_ranges)
        self.held_out.leave(observing=False)

    def on_train_epoch_start(self) -> None:
        """Capture the target's references, start from nearest rounding, and measure that."""
        with self.phase("capture"):
            self.refer()
        with self.phase("range search"):
            learn.start_learning_(self.target)
        learn.set_soft_rounding_(self.target, False)
        self.records.append({"target": self.target_name})
        self.records[-1]["error_nearest"] = self.error()
        learn.set_soft_rounding_(self.target, self.learning.iterations > 0)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """After the last step on the rounding, turn to the polish."""
        if batch_idx == self.learning.iterations:
            self.fix_rounding()
        self.timer.start()

    def training_step(self, rows: Tensor, batch_idx: int) -> Tensor:
        """Reconstruction error of the target on some rows, plus the rounding's penalty."""
        if not self.learns(batch_idx):
            # Changes nothing; the Trainer accepts no loss at all in one process only.
            return torch.zeros((), requires_grad=True)
        visit = Visit(self.target, self.streams)
        output = visit.output_and_reference(rows.cpu(), learn.learns_ranges(self.target))
        return reconstruction_loss(*output) + learn.penalty(self.target, batch_idx, self.learning)

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Count the time of the learning."""
        self.timer.stop("learning")

    def learns(self, iteration: int) -> bool:
        """Whether anything of the current target can be learned at this iteration."""
        if iteration >= self.learning.total_iterations:
            return False
        return bool(learn.layers_of(self.target)) or learn.learns_ranges(self.target)

    def fix_rounding(self) -> None:
        """Round hard from here on, observe the activations, and begin to learn their ranges."""
        learn.set_soft_rounding_(self.target, False)
        if self.learning.learns_ranges:
            with self.phase("observation"):
                Visit(self.target, self.streams).observe(self.data.batch_size)
                self.share_ranges()
            learn.start_learning_ranges_(self.target)

    def share_ranges(self) -> None:
        """Widen the ranges of the current target by those of the other processes; exact."""
        for quantizer in learn.quantizers_of(self.target):
            for name, buffer in quantizer.require_observer().named_buffers():
                side = "min" if name.endswith("low") else "max"
                if buffer.numel():
                    buffer.copy_(self.trainer.strategy.reduce(buffer, reduce_op=side))

    def error(self, activations: bool = False) -> float:
        """Relative squared error of the target's output on the held-out samples.

        Raises:
            DGQError: if it is not finite.
        """
        with self.phase("measuring"):
            visit = Visit(self.target, self.held_out)
            parts = visit.noise_and_signal(self.data.batch_size, activations)
        noise, signal = self.summed(parts)
        if not math.isfinite(noise / signal):
            raise DGQError(
                f"{self.target_name}: the error is {noise} of {signal}; lower the learning rates, "
                "and check that the pipeline draws sensible images"
            )
        return noise / signal

    def summed(self, noise_and_signal: Tensor) -> tuple[float, float]:
        """Noise and signal over all processes; the signal is never 0."""
        total = self.trainer.strategy.reduce(noise_and_signal.to(self.device), reduce_op="sum")
        noise, signal = total.tolist()
        return noise, max(signal, 1e-20)

    def on_train_epoch_end(self) -> None:
        """Harden the target, measure it, and pass on to the next."""
        learned_ranges = learn.learns_ranges(self.target)
        learn.harden_(self.target)
        learn.harden_ranges_(self.target)
        self.records[-1]["error"] = self.error()
        if learned_ranges:
            self.records[-1]["error_quantized"] = self.error(activations=True)
        errors = {name: v for name, v in self.records[-1].items() if name != "target"}
        self.log_dict(errors, sync_dist=True)
        self.optimizers().optimizer.state.clear()  # type: ignore[union-attr]
        with self.phase("observation"):
            self.leave()
            self.share_ranges()
        if self.complete:
            self.finish()

    # The end

    @property
    def complete(self) -> bool:
        """Whether every target has been hardened."""
        return len(self.records) == self.n_targets and "error" in self.records[-1]

    def finish(self) -> None:
        """Choose axes, groups and scales of the activations, and measure the whole UNet."""
        if not self.learning.learns_ranges:
            fit_activations_(self.unet)
        self.sqnr_db = {"weights": self.output_sqnr_db(self.held_out.quantized.results)}
        calls = [to_device(call, self.device) for call in self.data.held_out]
        everything = quantization(self.unet, weights=True, activations=True)
        with self.phase("measuring"), everything, torch.no_grad():
            results = [self.unet(**call) for call in calls]
        self.sqnr_db["all"] = self.output_sqnr_db(results)

    def output_sqnr_db(self, results: Sequence[Any]) -> float:
        """SQNR in decibel of the UNet's outputs for the held-out samples."""
        pairs = zip(results, self.held_out.full_precision.results, strict=True)
        parts = [noise_and_signal(q[0], f[0]).cpu() for q, f in pairs]
        noise, signal = self.summed(sum(parts, torch.zeros(2)))
        return 10 * math.log10(signal / max(noise, 1e-20 * signal))

    def on_train_end(self) -> None:
        """Drop the streams, and what waited on disk."""
        self.drop_streams()

    def drop_streams(self) -> None:
        """Free what waits, in memory and on disk."""
        for streams in (self._streams, self._held_out):
            if streams is not None:
                streams.close()
        shutil.rmtree(self.waiting_folder, ignore_errors=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Compute in the Trainer's precision, and count the seconds of a phase."""
        with self.timer.phase(name), self.trainer.precision_plugin.forward_context():
            yield

    def manifest(self) -> Manifest:
        """What the finished model is described by."""
        data = self.data
        return Manifest(
            self.pipeline,
            self.unet_config,
            self.settings,
            data.generation,
            data.calls.distinct_timesteps,
            data.calls.latent_size,
            unet_sha256=self.unet_sha256,
        )

    # Checkpoints: finished targets and observed ranges, never the full-precision weights

    def identity(self, data: dict[str, Any]) -> str:
        """What a checkpoint must agree in to be resumed: content and settings, never a path.

        Args:
            data: the DataModule's part.
        """
        own = {"waiting.dtype": self.waiting.dtype, "weights of the UNet": self.unet_sha256}
        return identity_of(self.settings, self.learning, data | own | self.trainer_identity)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the log so far and what the run is determined by."""
        checkpoint["calibration"] = {
            "identity": self.identity(self.data.identity),
            "calls": self.data.calls.sha256,
            "records": self.records,
            "seconds": self.seconds,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the log; that the settings agree was checked before any work.

        Raises:
            DGQError: if the samples are not those that the checkpoint was made with.
        """
        if checkpoint["calibration"]["calls"] != self.data.calls.sha256:
            raise DGQError(
                "the recorded calls are not those that the checkpoint was made with: they were "
                "recorded again on another machine or in other batches; restore the file in "
                "--data.cache, or start a new run with --run DIR"
            )
        self.records = checkpoint["calibration"]["records"]
        self.seconds.update(checkpoint["calibration"]["seconds"])

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Finished weights and observed ranges."""
        return calibration_state(self.unet)

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Take up finished weights and observed ranges."""
        load_calibration_state_(self.unet, state_dict)


def to_device(value: Any, device: torch.device) -> Any:
    """Nested arguments with their tensors on a device."""
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
