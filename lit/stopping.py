"""Ending a calibration early in all its processes, as decided by the first one."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

LIMIT_REACHED = 3
"""Exit status of a run that was stopped by a limit of the Trainer."""


def is_first_process() -> bool:
    """Whether this is the process that writes and prints for all."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def end_processes(trainer: Trainer) -> str:
    """End the other processes that a Trainer started.

    Returns:
        The processes that had ended by themselves, and how.
    """
    launcher: Any = trainer.strategy.launcher
    processes = list(getattr(launcher, "procs", ()))
    ended = [(n, p.poll()) for n, p in enumerate(processes, start=1) if p.poll()]
    if processes:
        launcher.procs.clear()  # or Lightning's observer would kill this process too
    for process in processes:
        process.kill()
        process.wait()
    return ", ".join(f"process {number} ended with status {status}" for number, status in ended)
