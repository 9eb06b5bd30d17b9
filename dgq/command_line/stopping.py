"""Stopping early: a signal ends a command with one line, a status, and nothing half done.

Whatever is written is written beside and renamed, so that an exception may leave at any place.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Those that a user, a closed terminal or a cluster ends a job with."""

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


class Stopper:
    """Turns signals into ``Stopped``.

    An exception in the wrong place, such as the end of an object, is swallowed by Python: whoever
    has a loop calls ``check``.

    Args:
        is_first: whether this is the first of several processes, or the only one; the others
            ignore signals.
    """

    def __init__(self, is_first: bool = True) -> None:
        self.is_first = is_first
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
        """Handle the signals, except those that are ignored, as under ``nohup``."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal if self.is_first else signal.SIG_IGN)


@contextmanager
def stopping_on_signals(is_first: bool = True) -> Iterator[Stopper]:
    """While this is entered, signals raise ``Stopped`` in the main thread of the first process.

    Args:
        is_first: whether this is that process; the others end when it has ended.
    """
    stopper = Stopper(is_first)
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stopper.listen()
    if not is_first:
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
