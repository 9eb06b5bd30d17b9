"""Processes that prepare side by side but measure one at a time, while the others are stopped."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "measuring.lock"
SETTLING_S = 0.3
"""Wait until a GPU has finished the work of other processes."""


class Turns:
    """Turns among the process groups that have joined.

    Args:
        folder: folder that they share; None if a process is alone anyway.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of(cls, folder: str) -> "Turns":
        """The turns of a folder; none for an empty name."""
        return cls(Path(folder) if folder else None)

    def join(self, group: int) -> None:
        """Allow others to pause a process group while they measure."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / str(group)).touch()

    def leave(self, group: int) -> None:
        """Undo ``join``: the number may soon belong to another group."""
        if self.folder is not None:
            (self.folder / str(group)).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Context in which only this group runs."""
        if self.folder is None:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK):
            self._tell_others(signal.SIGSTOP)
            try:
                time.sleep(SETTLING_S)
                yield
            finally:
                self._tell_others(signal.SIGCONT)

    def wake(self) -> None:
        """Let all groups continue unless one measures: one may have ended without doing so."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout), FileLock(self.folder / LOCK).acquire(timeout=0):
                self._tell_others(signal.SIGCONT)

    def end(self) -> None:
        """Kill all other groups, including paused ones."""
        self._tell_others(signal.SIGKILL)

    def _tell_others(self, what: signal.Signals) -> None:
        for file in self.folder.glob("[0-9]*") if self.folder else ():
            if int(file.name) != os.getpgid(0):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(int(file.name), what)
