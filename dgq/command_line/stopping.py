"""Stopping early: a signal ends a command with one line, a status, and nothing half done.

Everything is written beside its place and renamed, so that an exception may end it anywhere.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Signals with which a user, a closed terminal or a cluster ends a job; Windows has two."""

PARENT_POLL_SECONDS = 1.0


class Stopped(BaseException):
    """Raised when a run is stopped from outside; no ``except Exception`` may catch it.

    Args:
        reason: reason, for the user.
        status: exit status of the command.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.said = False


class Stopper:
    """Turns signals into ``Stopped``.

    Python swallows exceptions in some places, such as finalizers, so loops also call ``check``.

    Args:
        is_first: whether this is the first of several processes, or the only one; the others
            ignore signals.
    """

    def __init__(self, is_first: bool = True) -> None:
        self.is_first = is_first
        self._stopped: Stopped | None = None

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Stop; further signals are ignored during cleanup."""
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        name = signal.Signals(number).name
        self._stopped = Stopped(f"stopped by {name}", 128 + number)
        raise self._stopped

    def check(self) -> None:
        """Raise ``Stopped`` if a signal arrived and its exception was lost."""
        if self._stopped is not None:
            raise self._stopped

    def listen(self) -> None:
        """Handle the signals, except those that are ignored, as under ``nohup``."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self.on_signal if self.is_first else signal.SIG_IGN)


@contextmanager
def stopping_on_signals(is_first: bool = True) -> Iterator[Stopper]:
    """Context in which signals raise ``Stopped`` in the main thread of the first process.

    Args:
        is_first: whether this is that process; the others end after it.
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
    """End this process when the first one was killed, even during a collective operation."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
