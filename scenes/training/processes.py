"""Data-parallel processes on a CPU: of one thread each, they are faster than one of many."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def run_in_processes(n: int, folder: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(*arguments)` in `n` processes that can reduce; in this one if `n` is 1.

    The processes find each other by a file in `folder`.
    """
    if n == 1:
        function(*arguments)
        return
    folder.mkdir(parents=True, exist_ok=True)
    rendezvous = folder / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    multiprocessing.spawn(_run, (n, rendezvous.resolve(), function, arguments), nprocs=n)


def rows_of_process(n: int) -> slice:
    """The rows of a batch of `n` that are this process's share."""
    if not dist.is_initialized():
        return slice(0, n)
    return slice(dist.get_rank(), n, dist.get_world_size())


def _run(
    rank: int, n: int, rendezvous: Path, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=n)
    function(*arguments)
    dist.destroy_process_group()
