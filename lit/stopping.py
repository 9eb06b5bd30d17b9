"""Stopping early: signals and limits end a command with one line, a status, and nothing half done.

Whatever is written is written beside and renamed, so that an exception may leave at any place. Only
the first process decides: the others ignore signals, and end when it has ended.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Those that a user, a closed terminal or a cluster ends a job with."""

LIMIT_REACHED = 3
"""Exit status of a run that a limit of the Trainer stopped."""

PARENT_POLL_SECONDS = 1.0


class Stopped(BaseException):
    """Raised where a run is stopped from outside; no ``except Exception`` may swallow it.

    Args:
        reason: for the user.
        status: exit status of the command.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.said = False


def is_first_process() -> bool:
    """Whether this process writes and speaks for all."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


class Stopper:
    """Turns signals into ``Stopped``.

    An exception in the wrong place, such as the end of an object, is swallowed by Python: whoever
    has a loop calls ``check``.
    """

    def __init__(self) -> None:
        self._stopped: Stopped | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Stop; signals that follow are ignored while everything is cleaned up."""
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        name = signal.Signals(number).name
        self._stopped = Stopped(f"stopped by {name}", 128 + number)
        raise self._stopped

    def check(self) -> None:
        """Raise ``Stopped`` if a signal came and its exception was lost."""
        if self._stopped is not None:
            raise self._stopped

    def listen(self) -> None:
        """Handle the signals, those apart that are ignored, as under ``nohup``."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal if is_first_process() else signal.SIG_IGN)


@contextmanager
def stopping_on_signals() -> Iterator[Stopper]:
    """While this is entered, signals raise ``Stopped`` in the main thread of the first process."""
    stopper = Stopper()
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stopper.listen()
    if not is_first_process():
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent(parent: int) -> None:
    """End this process when the first one has been killed, even in a collective operation."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def end_processes(trainer: Trainer) -> str:
    """End the other processes that a Trainer started.

    Returns:
        Which of them had ended by themselves, and how.
    """
    launcher: Any = trainer.strategy.launcher
    processes = list(getattr(launcher, "procs", ()))
    ended = [(n, p.poll()) for n, p in enumerate(processes, start=1) if p.poll()]
    if processes:
        launcher.procs.clear()  # Lightning's observer would kill this process with them
    for process in processes:
        process.kill()
        process.wait()
    return ", ".join(f"process {number} ended with status {status}" for number, status in ended)
