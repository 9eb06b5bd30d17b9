"""Locks between processes, which the system releases whenever a process ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import stat_result
from os.path import samestat
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from dgq.errors import DGQError

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of file systems without locks, such as NFS without its daemon, beside ENOSYS."""


class LockedError(DGQError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class Held:
    """A lock that this process holds.

    Args:
        file: the lock file.
        made: its status when it was locked.
    """

    file: Path
    made: stat_result

    @property
    def is_here(self) -> bool:
        """Whether the file is still in its place: its folder may have been moved or removed."""
        try:
            return samestat(self.file.stat(), self.made)
        except OSError:
            return False


def lock_file(path: Path) -> Path:
    """The lock file of a path."""
    return path.with_name(f".{path.name}.lock")


def acquired(file: Path, timeout: float) -> BaseFileLock:
    """A lock on a file; where there are no locks, the file itself is one, as in filelock."""
    lock: BaseFileLock = FileLock(file, timeout=timeout)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if not is_file_alone(file):
            file.unlink(missing_ok=True)  # made to be locked
        lock = SoftFileLock(file, timeout=timeout)
        lock.acquire()
    return lock


def is_file_alone(file: Path) -> bool:
    """Whether a lock is its file, which names its process, rather than one of the system.

    A killed process on another machine leaves such a file behind.
    """
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[Held]:
    """Hold the lock ``.<name>.lock`` beside a path; the file is removed at the end.

    Args:
        path: path to lock; its folder is made.
        wait: wait until another process releases the lock, instead of raising ``LockedError``.

    Raises:
        DGQError: if the file cannot be made.
    """
    file = lock_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = acquired(file, timeout=-1 if wait else 0)
        held = Held(file, file.stat())
    except Timeout as error:
        raise LockedError(f"{path} is locked by another process") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DGQError(f"{path.parent} cannot be written into ({reason}): fix that") from error
    try:
        yield held
    finally:
        # Removed while held: whoever waits for the old file sees that it is gone, and makes
        # another. A file that took its place is somebody else's.
        if held.is_here:
            file.unlink(missing_ok=True)
        lock.release()
