"""Writing files so that a crash leaves either the old or the new one, and cleaning up after it."""

import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE
from typing import Any

import psutil

from dgq.errors import DGQError

PARTIAL = ".partial"
FLUSHES_FOLDERS = os.name != "nt"
"""Whether the system opens folders as files; Windows writes their names down by itself."""

FLUSHES_NO_NAMES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of file systems that flush files and not folders, such as CIFS and some of FUSE's."""


def partial_name(name: str, suffix: str = "") -> str:
    """A temporary name beside a file or folder, which identifies the process and its machine.

    Args:
        name: name of the file or folder.
        suffix: distinguishes several temporary names of one file.
    """
    return f".{name}.{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}{PARTIAL}"


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without error.

    It is on the same file system and flushed to disk before it is renamed, so neither a kill nor a
    power loss leaves a partial file under the final name.
    """
    with written_together(path) as (beside,):
        yield beside


@contextmanager
def written_together(*paths: Path) -> Iterator[list[Path]]:
    """Temporary paths beside files of one folder, which replace these when the block ends.

    None is replaced before all are flushed to disk; they are replaced in their order.
    """
    folder = paths[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    beside = [path.with_name(partial_name(path.name)) for path in paths]
    try:
        yield beside
        open_as_usual_(folder, beside)
        for partial in beside:
            flush(partial)
        for partial, path in zip(beside, paths, strict=True):
            os.replace(partial, path)
        flush(folder)
    finally:
        for partial in beside:
            partial.unlink(missing_ok=True)


@contextmanager
def files_written_into(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into ``folder`` when the block ends.

    JSON files move last, so that descriptions follow what they describe. None moves before all are
    flushed to disk, which may be full.

    It is inside ``folder``: that may be a volume of a container, which is another file system than
    the folder around it, and the only one that may be written into.
    """
    folder = folder.absolute().resolve()  # "." has no name
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    remove_leftovers(folder, f"{glob.escape(folder.name)}.*")
    inside = folder / partial_name(folder.name)
    try:
        inside.mkdir(parents=True)
        yield inside
        open_as_usual_(inside, list(inside.iterdir()))
        flush_all(inside)
        for file in sorted(inside.iterdir(), key=lambda file: file.suffix == ".json"):
            os.replace(file, folder / file.name)
        flush(folder)
    finally:
        shutil.rmtree(inside, ignore_errors=True)
        with suppress(OSError):  # after an error nothing is in them
            for place in made:
                place.rmdir()


def open_as_usual_(folder: Path, files: Iterable[Path]) -> None:
    """Give files the permissions of any new one in a folder; libraries write some for one user."""
    example = folder / partial_name("mode")
    example.touch()
    mode = S_IMODE(example.stat().st_mode)
    example.unlink()
    for file in files:
        if S_IMODE(file.stat().st_mode) != mode:  # some file systems refuse any change
            file.chmod(mode)


def flush_all(folder: Path) -> None:
    """Wait until everything in a folder is on disk."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    if path.is_dir() and not FLUSHES_FOLDERS:
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in FLUSHES_NO_NAMES):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "*", locked: bool = False) -> None:
    """Remove temporary files and folders that a killed process left in a folder.

    Args:
        folder: folder, which need not exist.
        name: pattern of the files that were being written.
        locked: whether nobody else writes files there now. Otherwise only those of ended processes
            of this machine are removed. Temporary folders are never covered by a lock.
    """
    for path in folder.glob(f".{name}{PARTIAL}"):
        if path.is_dir():
            if is_abandoned(path.name):
                shutil.rmtree(path, ignore_errors=True)
        elif locked or is_abandoned(path.name):
            path.unlink(missing_ok=True)


def is_abandoned(name: str) -> bool:
    """Whether the process of a temporary name has ended; False if unknown."""
    owner = name.removesuffix(PARTIAL)
    machine, _, rest = owner.rpartition(f".{platform.node()}-")
    process = rest.partition("-")[0]
    if not machine or not process.isdecimal():
        return False
    return not psutil.pid_exists(int(process))


def check_writable(folder: Path, option: str) -> None:
    """Raise DGQError unless files can be written into a folder, which need not exist yet.

    Nothing is left behind: folders made for the test are removed again.

    Args:
        folder: folder that something will be written into later.
        option: option that names it, for the message.
    """
    made: list[Path] = []
    try:
        for parent in reversed([folder, *folder.parents]):
            if not parent.is_dir():
                parent.mkdir(exist_ok=True)
                made.append(parent)
        trial = folder / f".{secrets.token_hex(4)}{PARTIAL}"
        try:
            trial.write_bytes(b"trial")
        finally:
            trial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DGQError(
            f"{option} {folder} cannot be written into ({reason}): fix that, or name another one"
        ) from error
    finally:
        with suppress(OSError):  # somebody else may have written into it meanwhile
            for parent in reversed(made):
                parent.rmdir()


def checked_path(value: Any, use: str) -> Path:
    """A path given by a user.

    Args:
        value: the given value.
        use: its purpose, for the message.

    Raises:
        DGQError: for anything but text or a path, and for a path that cannot be looked up.
    """
    if not isinstance(value, str | os.PathLike):
        raise DGQError(f"{use}: expected a path, got a {type(value).__name__}")
    path = Path(value)
    try:
        path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, a folder without permission
        reason = getattr(error, "strerror", None) or error
        raise DGQError(f"{use}: {str(path)[:200]} cannot be used as a path ({reason})") from error
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON, atomically."""
    with written_beside(path) as beside:
        dump_json(beside, content)


def dump_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON in place."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DGQError: if it is missing, not a regular file, or not valid JSON.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DGQError(f"{path} cannot be read as JSON ({reason}): fix or restore it") from error


def exists(path: Path) -> bool:
    """Whether a path exists; False if no file can have such a name."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_regular(path: Path) -> None:
    """Raise DGQError unless a path is a regular file that can be opened.

    Reading anything else might never end. Opening comes first because libraries say of each file
    that they cannot open, be it for access or for too many open ones, that it does not exist.
    """
    if not exists(path):
        raise DGQError(f"{str(path)[:200]} does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise DGQError(f"{path} cannot be read: it is {kind}; expected a file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise DGQError(f"{path} cannot be read: {error.strerror}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
