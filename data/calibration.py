"""The calibration's DataModule: recorded UNet calls, and batches of rows to learn on."""

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from data.embedded import DEFAULT, DEFAULT_PIPELINE, benchmark_of_pipeline
from data.messages import say
from data.prompts import choose_prompts
from data.resumable_recording import record_into, remove_parts
from data.rows import RowBatches
from dgq.calibration.row_batches import check_seed, seed_of_target
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import DGQError, SettingsError
from dgq.pipelines.files import pipeline_sha256
from dgq.pipelines.loading import load_pipeline
from dgq.pipelines.sources import resolve
from dgq.planning.sampler import sampler_timesteps
from dgq.settings import check_positive
from dgq.storage.checkpoint import GenerationSettings
from dgq.storage.files import check_writable, remove_leftovers
from dgq.storage.locks import LockedError, lock_file, locked

RECORDING_FORMAT = 2
N_HELD_OUT_PROMPTS = 4
N_MEASURED = 256
"""Pairs that recipes may measure on before they choose; the same in all processes."""

DEFAULT_GENERATION = DEFAULT.generation[DEFAULT_PIPELINE]


class CalibrationData(LightningDataModule):
    """Prompts, the UNet calls recorded for them, and random rows of these calls to learn on.

    Args:
        pipeline: the name of an embedded model, a folder, or a hub id.
        generation: how the full-precision pipeline is run.
        captions: file of captions (COCO's JSON, JSON lines, CSV, TSV, or text with one per line) or
            hub id of a dataset; by default prompts of the pipeline's own benchmark, else of the
            embedded one.
        n_prompts: prompts to draw; with fewer than 96, ranges clip on new prompts.
        n_samples: pairs of prompt and timestep to calibrate on, spread evenly over the timesteps;
            all by default. With guidance each pair is two rows.
        n_held_out: held-out pairs, of four further prompts, on which errors are measured; at most
            all calls of these prompts are used.
        batch_size: rows in one learning step; all rows if there are fewer.
        micro_batch_size: pairs that run through the UNet at a time.
        record_batch_size: prompts that are recorded at a time; an interrupted recording goes on
            after the last such batch.
        cache: folder of the recorded calls.
        seed: seed of prompts, noise and batches.
    """

    n_held_out_prompts: ClassVar[int] = N_HELD_OUT_PROMPTS

    def __init__(
        self,
        pipeline: str = DEFAULT_PIPELINE,
        generation: GenerationSettings = DEFAULT_GENERATION,
        captions: Path | None = None,
        n_prompts: int = 128,
        n_samples: int | None = None,
        n_held_out: int = 16,
        batch_size: int = 16,
        micro_batch_size: int = 32,
        record_batch_size: int = 16,
        cache: Path = Path("outputs/cache"),
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("data.n_prompts", n_prompts),
            ("data.n_held_out", n_held_out),
            ("data.batch_size", batch_size),
            ("data.micro_batch_size", micro_batch_size),
            ("data.record_batch_size", record_batch_size),
        ):
            check_positive(name, value)
        check_seed("data.seed", seed)
        n_calls = len(sampler_timesteps(resolve(pipeline), generation.num_inference_steps))
        if n_samples is not None and not n_calls <= n_samples <= n_prompts * n_calls:
            raise SettingsError(
                f"data.n_samples must be {n_calls} (one for each call of the UNet) to "
                f"{n_prompts * n_calls} (calls times data.n_prompts), got {n_samples}: give "
                f"--data.n_samples {n_prompts * n_calls if n_samples > n_calls else n_calls}, or "
                "null for all"
            )
        # The same number for each call: the remainder is not used.
        self.n_pairs = n_calls * (n_prompts if n_samples is None else n_samples // n_calls)
        self.pipeline = pipeline
        self.generation = generation
        self.n_samples = n_samples
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.record_batch_size = record_batch_size
        self.cache = cache
        self.seed = seed
        self.n_held_out = n_held_out
        self.n_prompts = n_prompts
        notes: list[str] = []
        benchmark = benchmark_of_pipeline(pipeline)
        if captions is None and benchmark is None:
            notes.append(
                f"no --data.captions: calibrating on captions of the embedded {DEFAULT.name}, "
                "which describe coloured shapes; give captions like the prompts the model will get"
            )
        self.prompts = choose_prompts(
            captions, n_prompts + N_HELD_OUT_PROMPTS, seed, notes, benchmark
        )
        for note in notes:
            say(note)
        self._calls: UNetCalls | None = None
        self.micro_batches: list[dict[str, Any]] = []
        self.held_out: list[dict[str, Any]] = []
        self.measured: list[dict[str, Any]] = []

    @cached_property
    def recording(self) -> Path:
        """The file of the recorded calls, named after everything that determines them."""
        key = {
            "format": RECORDING_FORMAT,
            "pipeline": pipeline_sha256(resolve(self.pipeline)),
            "prompts": self.prompts,
            "generation": asdict(self.generation),
            "seed": self.seed,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.cache / f"calls-{digest[:16]}.safetensors"

    @property
    def identity(self) -> dict[str, Any]:
        """Values that determine the samples and their order, compared when a run is resumed."""
        return {
            "recording": self.recording.name,
            "n_samples": self.n_pairs,
            "n_held_out": self.n_held_out,
            "batch_size": self.batch_size,
            "micro_batch_size": self.micro_batch_size,
            "seed": self.seed,
        }

    def check_processes(self, n: int) -> None:
        """Raise DGQError unless this number of processes can share the samples."""
        n_micro_batches = math.ceil(self.n_pairs / self.micro_batch_size)
        if n > n_micro_batches:
            raise DGQError(
                f"{n} processes cannot share {n_micro_batches} micro-batches: lower "
                "trainer.devices or data.micro_batch_size, or raise data.n_samples"
            )
        if self.batch_size % n:
            raise DGQError(
                f"data.batch_size must be a multiple of the {n} processes that share it, got "
                f"{self.batch_size}"
            )

    def prepare_data(self) -> None:
        """Record the calls, unless a file with the same calls exists."""
        if self.recording.is_file():
            self.tidy()
            return
        check_writable(self.cache, "--data.cache")
        try:
            with locked(self.recording, wait=False):
                self.record()
        except LockedError:
            say(f"another process is recording {self.recording}: waiting for it")
            with locked(self.recording, wait=True):
                self.record()

    def tidy(self) -> None:
        """Remove leftovers of a process that was killed just after it recorded."""
        if lock_file(self.recording).exists():
            with suppress(DGQError), locked(self.recording, wait=False):
                remove_leftovers(self.cache, f"{self.recording.name}*", locked=True)
                remove_parts(self.recording)

    def record(self) -> None:
        """Record the calls under a lock, unless another process has just done so."""
        if self.recording.is_file():
            return
        remove_leftovers(self.cache, f"{self.recording.name}*", locked=True)
        device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
        record_into(
            self.recording,
            load_pipeline(self.pipeline).to(device),
            self.prompts,
            self.generation,
            self.seed,
            self.record_batch_size,
        )

    def setup(self, stage: str) -> None:
        """Load the calls and arrange the chosen pairs in micro-batches."""
        self.check_processes(self.n_processes)
        self._calls = UNetCalls.load(self.recording)
        pairs = self.calls.sample_pairs(self.n_samples, self.seed, self.n_prompts)
        self.micro_batches = self.own_share(pairs)
        self.measured = [self.calls.batch(pairs[:N_MEASURED])]
        held_out = self.calls.held_out_pairs(self.n_held_out, N_HELD_OUT_PROMPTS)
        self.held_out = self.own_share(held_out, math.ceil(len(held_out) / self.n_processes))

    def own_share(self, pairs: Tensor, at_most: int | None = None) -> list[dict[str, Any]]:
        """This process' micro-batches, which are the same for any number of processes.

        Args:
            pairs: ``[n, 2]``, pairs of all processes.
            at_most: most pairs in a micro-batch, so that all processes get some.
        """
        size = min(self.micro_batch_size, at_most or self.micro_batch_size)
        parts = pairs.split(size)[self.rank :: self.n_processes]
        return [self.calls.batch(part) for part in parts]

    @property
    def calls(self) -> UNetCalls:
        """All recorded calls of the UNet; available after ``setup``."""
        assert self._calls is not None
        return self._calls

    @property
    def n_processes(self) -> int:
        """Number of processes that share the samples."""
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return 0 if self.trainer is None else self.trainer.global_rank

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Endless batches of row indices over all micro-batches."""
        n_rows = sum(batch["sample"].shape[0] for batch in self.micro_batches)
        rows = RowBatches(n_rows, self.batch_size // self.n_processes, self.seed_of_batches)
        return DataLoader(rows, batch_size=None)

    def seed_of_batches(self) -> int:
        """Seed of the Trainer's current target in this process."""
        target = 0 if self.trainer is None else self.trainer.current_epoch
        return seed_of_target(self.seed, target, self.rank)
