"""Ending a calibration early in all its processes, as decided by the first one."""

from collections.abc import Sequence
from subprocess import Popen

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

LIMIT_REACHED = 3
"""Exit status of a run that was stopped by a limit of the Trainer."""

HOW_TO_RESUME = "the same command with --ckpt_path last resumes after the last finished target"


def is_first_process() -> bool:
    """Whether this is the process that writes and prints for all."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def end_processes(trainer: Trainer) -> str:
    """End the other processes that a Trainer started.

    Returns:
        The processes that had ended by themselves, and how.
    """
    processes: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "children", [])
    ended = how_they_ended(processes)
    end_all(processes)
    return ended


def how_they_ended(processes: Sequence[Popen[bytes]]) -> str:
    """The processes that have ended with a status other than 0, in words; empty if none has."""
    ended = [(n, p.poll()) for n, p in enumerate(processes, start=1) if p.poll()]
    return ", ".join(f"process {number} ended with status {status}" for number, status in ended)


def end_all(processes: list[Popen[bytes]]) -> None:
    """End processes; nobody watches them any more."""
    mine = processes[:]
    processes.clear()
    for process in mine:
        process.kill()
        process.wait()
