"""Writing files so that a crash leaves either the old one or the new one."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgq.errors import DGQError

CHUNK = 1 << 20
MAPPED_FROM = 1 << 18
"""Elements from which on a tensor is mapped rather than copied."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.chmod(0o644)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON, atomically."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")


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
    try:
        with safe_open(path, framework="pt") as file:
            sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            # Copied: one small tensor that is kept would keep the whole file mapped.
            tensors = {
                name: file.get_tensor(name).clone() if prod(shape) < MAPPED_FROM else None
                for name, shape in sizes.items()
            }
            metadata = file.metadata() or {}
        return {n: mapped(path, n) if t is None else t for n, t in tensors.items()}, metadata
    except FileNotFoundError as error:
        raise DGQError(f"{path} does not exist") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DGQError(
            f"{path} is damaged or not a safetensors file ({error}): restore it, or make it again"
        ) from error


def mapped(path: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, in a mapping of its own that goes with it."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
