"""Locks between processes end with their process, and leave no file."""

import errno
import os
import signal
from pathlib import Path

import pytest

from dgq.errors import DGQError
from dgq.storage.locks import LockedError, is_file_alone, lock_file, locked


def test_a_lock_leaves_no_file_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "new" / "file", wait=False):
            assert [p.name for p in (tmp_path / "new").iterdir()] == [".file.lock"]
        assert not list((tmp_path / "new").iterdir())


def hold_until_told(path: Path, held: int, told: int) -> None:
    """What another process does: hold the lock, then end normally."""
    with locked(path, wait=False):
        os.write(held, b"held")
        os.read(told, 4)
    os._exit(0)


@pytest.mark.parametrize("killed", [True, False])
def test_another_process_is_refused_or_waits(killed: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    (held, write_held), (told, write_told) = os.pipe(), os.pipe()
    other = os.fork()
    if other == 0:
        hold_until_told(path, write_held, told)
    assert os.read(held, 4) == b"held"
    with pytest.raises(LockedError), locked(path, wait=False):
        pytest.fail("locked twice")
    if killed:
        os.kill(other, signal.SIGKILL)
    else:
        os.write(write_told, b"told")
    with locked(path, wait=True):
        assert os.waitpid(other, 0)[1] == (signal.SIGKILL if killed else 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/proc/nowhere/file", "x" * 300, "nul\0/file"])
def test_where_there_can_be_no_lock_it_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(DGQError, match="cannot be written into"), locked(tmp_path / name, False):
        pytest.fail("locked")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_without_locks_of_the_system_the_file_is_the_lock(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS without its lock daemon."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    path = tmp_path / "file"
    for _ in range(2):
        with locked(path, wait=False) as held:
            assert held.is_here
            assert is_file_alone(lock_file(path))
            with pytest.raises(LockedError), locked(path, wait=False):
                pytest.fail("locked twice")
            assert held.is_here
        assert not list(tmp_path.iterdir())
    lock_file(path).write_text("1\nanother-machine\n")
    with pytest.raises(LockedError), locked(path, wait=False):
        pytest.fail("locked, though the other machine may still run")
    assert lock_file(path).exists()
