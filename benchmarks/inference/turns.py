"""Processes that prepare side by side and measure one at a time, the others stopped meanwhile."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "measuring.lock"
SETTLING_S = 0.3
"""Until what others have asked of a GPU is done."""


class Turns:
    """Of the process groups that have joined.

    Args:
        folder: that they share; none where a process is alone anyway.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of(cls, folder: str) -> "Turns":
        """Those of a folder; an empty name is none."""
        return cls(Path(folder) if folder else None)

    def join(self, group: int) -> None:
        """Let others stop a group of processes while they measure."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / str(group)).touch()

    def leave(self, group: int) -> None:
        """What ``join`` has done is over: the number may soon be another's."""
        if self.folder is not None:
            (self.folder / str(group)).unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this group is the only one that runs."""
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
        """Let all continue, unless one measures: whoever did may have ended without saying so."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout), FileLock(self.folder / LOCK).acquire(timeout=0):
                self._tell_others(signal.SIGCONT)

    def end(self) -> None:
        """Kill all other groups, stopped ones too."""
        self._tell_others(signal.SIGKILL)

    def _tell_others(self, what: signal.Signals) -> None:
        for file in self.folder.glob("[0-9]*") if self.folder else ():
            if int(file.name) != os.getpgid(0):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(int(file.name), what)
