"""Drawing on several devices: processes that take one batch after another from a queue.

This is written by hand, since accelerate and Lightning's ``predict`` distribute batches beforehand.
Here a process that is faster, or has a model already, takes more batches, and one that dies is
noticed at once.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from safetensors import SafetensorError
from torch import multiprocessing, nn

from dgq.command_line.console import quieten_libraries
from dgq.command_line.stopping import SIGNALS
from dgq.errors import DGQError
from dgq.inference.execution import Mode
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import GenerationSettings, load_quantized_unet
from evaluation.images.image_generator import Batch, ImageGenerator
from evaluation.images.image_set import ImageSet

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerSetup:
    """What every process needs to draw any batch.

    Args:
        source: hub id or folder of the pipeline.
        checkpoints: checkpoints of the models, None for the full-precision pipeline.
        sets: sets of images of all models.
        generation: how images are sampled.
        threads: threads of each process, on a CPU.
        execution: execution of quantized models.
    """

    source: str
    checkpoints: tuple[Path | None, ...]
    sets: tuple[ImageSet, ...]
    generation: GenerationSettings
    threads: int
    execution: Mode = "auto"


def draw_in_processes(
    setup: WorkerSetup,
    devices: Sequence[str],
    batches: Sequence[Batch],
    advance: Callable[[Batch], None],
) -> None:
    """Draw all batches, each in exactly one process.

    Args:
        setup: what every process needs.
        devices: devices, with one process each.
        batches: all batches.
        advance: called after each batch.

    Raises:
        DGQError: if a process fails or is killed; images on disk are kept.
    """
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    for task in [*batches, *[None] * len(devices)]:
        tasks.put(task)
    workers = [
        context.Process(target=_work, args=(setup, device, tasks, results), daemon=True)
        for device in devices
    ]
    try:
        for worker in workers:
            worker.start()
        _collect(workers, results, len(batches), advance)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            worker.kill()
        for queue in (tasks, results):
            queue.cancel_join_thread()


def _collect(
    workers: Sequence[BaseProcess], results: Any, n: int, advance: Callable[[Batch], None]
) -> None:
    """Wait until n batches are on disk."""
    while n:
        try:
            result = results.get(timeout=POLL_SECONDS)
        except Empty:
            _check_alive(workers)
            continue
        if isinstance(result, str):
            raise DGQError(result)
        advance(result)
        n -= 1


def _check_alive(workers: Sequence[BaseProcess]) -> None:
    """Raise DGQError if a process has failed."""
    failed = next((worker.exitcode for worker in workers if worker.exitcode), None)
    if failed is not None:
        raise DGQError(
            f"a drawing process ended with code {failed} (a negative one is a signal; out of "
            "memory?): call again with fewer --devices or a smaller --batch-size, finished images "
            "are kept"
        ) from None


def _work(setup: WorkerSetup, device: str, tasks: Any, results: Any) -> None:
    """Run one process: draw until nothing is left, or the parent is gone."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the parent handles it
    torch.set_num_threads(setup.threads)
    quieten_libraries()
    try:
        _draw(setup, device, tasks, results)
    except (DGQError, OSError, SafetensorError) as error:
        results.put(str(error))


@torch.no_grad()
def _draw(setup: WorkerSetup, device: str, tasks: Any, results: Any) -> None:
    pipeline = load_pipeline(setup.source).to(device)
    own: nn.Module = pipeline.unet

    @lru_cache(maxsize=1)  # batches come model after model
    def unet_of(model: int) -> nn.Module:
        checkpoint = setup.checkpoints[model]
        if checkpoint is None:
            return own
        quantized: nn.Module = load_quantized_unet(checkpoint, setup.execution, device=device)
        return quantized

    finished: Batch | None = None
    with ImageGenerator(pipeline, unet_of, setup.sets, setup.generation) as generator:
        for batch in _taken(tasks):
            generator.draw(batch)
            if finished is not None:
                results.put(finished)
            finished = batch
    if finished is not None:
        results.put(finished)


def _taken(tasks: Any) -> Iterator[Batch]:
    """Batches from the queue, until there are no more or the parent has been killed."""
    parent = parent_process()
    while parent is not None and parent.is_alive():
        try:
            batch = tasks.get(timeout=POLL_SECONDS)
        except Empty:
            continue
        if batch is None:
            return
        yield batch
