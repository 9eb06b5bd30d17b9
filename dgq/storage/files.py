"""Writing files so that a crash leaves either the old one or the new one; tidying up after it."""

import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.fingerprint import tensors_sha256

CHUNK = 1 << 20
MAPPED_FROM = 1 << 18
"""Elements from which on a tensor is mapped rather than copied."""
PARTIAL = ".partial"
CHECKSUM = "sha256"


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without error.

    It is on the same file system, and on disk before it is renamed: neither a kill nor a loss of
    power leaves a part of a file under its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    beside = path.with_name(f".{path.name}.{owner}{PARTIAL}")
    try:
        yield beside
        beside.chmod(0o644)
        _flush(beside)
        os.replace(beside, path)
        _flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_written_beside(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files take their places in ``folder`` when the block ends.

    JSON comes last: descriptions follow what they describe.
    """
    folder = folder.absolute().resolve()  # "." has no name
    owner = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    beside = folder.with_name(f".{folder.name}.{owner}{PARTIAL}")
    beside.mkdir(parents=True)
    try:
        yield beside
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(beside.iterdir(), key=lambda file: file.suffix == ".json"):
            _flush(file)
            os.replace(file, folder / file.name)
        _flush(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "*", locked: bool = False) -> None:
    """Remove temporary files that a killed process left in a folder.

    Args:
        folder: need not exist.
        name: pattern of the files that were to be written.
        locked: nobody else writes there now; otherwise only files of processes of this machine that
            have ended are removed.
    """
    for path in folder.glob(f".{name}{PARTIAL}"):
        if locked or _is_abandoned(path.name):
            path.unlink(missing_ok=True)


def _is_abandoned(name: str) -> bool:
    """Whether a temporary file's process has ended; False where that cannot be known."""
    owner = name.removesuffix(PARTIAL)
    machine, _, rest = owner.rpartition(f".{platform.node()}-")
    process = rest.partition("-")[0]
    if not machine or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def check_writable(folder: Path, option: str) -> None:
    """Raise DGQError unless files can be written into a folder, which need not exist yet.

    Nothing stays behind: folders that had to be made for the trial are removed again.

    Args:
        folder: that something will be written into later.
        option: what names it, for the message.
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
            f"{option} {folder} cannot be written into ({reason}): mend that, or name another one"
        ) from error
    finally:
        with suppress(OSError):  # somebody else may have written into it meanwhile
            for parent in reversed(made):
                parent.rmdir()


def checked_path(value: Any, use: str) -> Path:
    """A path that a user gave.

    Args:
        value: given.
        use: what for, for the message.

    Raises:
        DGQError: for something else than text or a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise DGQError(f"{use}: expected a path, got a {type(value).__name__}")
    return Path(value)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON, atomically."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DGQError: if it is missing, no regular file, or no JSON that can be read.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DGQError(f"{path} cannot be read as JSON ({reason}): mend or restore it") from error


def exists(path: Path) -> bool:
    """Whether there is something; not if no file can have such a name."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_regular(path: Path) -> None:
    """Raise DGQError unless a path is a regular file; anything else might never end."""
    if not exists(path):
        raise DGQError(f"{str(path)[:200]} does not exist")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise DGQError(f"{path} cannot be read: it is {kind}; expected a file")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_beside(path) as beside:
        save_file(contiguous, beside, dict(metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Large tensors are read when they are used, and leave memory when they are dropped.

    Raises:
        DGQError: if the file is missing or damaged.
    """
    with opened(path) as file:
        sizes = {name: prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        # Copied: one small tensor that is kept would keep the whole file mapped.
        small = {n: file.get_tensor(n).clone() for n, size in sizes.items() if size < MAPPED_FROM}
        metadata = file.metadata() or {}
    return {n: small[n] if n in small else mapped(path, n) for n in sizes}, metadata


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open safetensors file; raises DGQError if it is missing or damaged."""
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise DGQError(
            f"{path} is damaged or not a safetensors file ({error}): restore it, or make it again"
        ) from error


def names_in(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    with opened(path) as file:
        return list(file.keys())


def mapped(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, in a mapping of its own that goes with it."""
    with opened(path) as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def write_sealed_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a safetensors file with a checksum of its content, atomically; returns the checksum."""
    seal = tensors_sha256(tensors, metadata)
    write_tensors(path, tensors, {**(metadata or {}), CHECKSUM: seal})
    return seal


def read_sealed_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What ``write_sealed_tensors`` wrote, the checksum in the metadata.

    Raises:
        DGQError: if the file is missing, or anything in it has changed since.
    """
    tensors, metadata = read_tensors(path)
    others = {name: value for name, value in metadata.items() if name != CHECKSUM}
    if metadata.get(CHECKSUM) != tensors_sha256(tensors, others):
        raise DGQError(
            f"{path} is damaged, or of an earlier version: its content does not have the checksum "
            "in it; remove it, and it is made again"
        )
    return tensors, metadata


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
