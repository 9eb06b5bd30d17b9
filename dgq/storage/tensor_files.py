"""Safetensors files: written atomically, read on demand, and sealed by a checksum."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgq.errors import DGQError
from dgq.storage.files import check_regular, written_beside
from dgq.storage.fingerprint import tensors_sha256

MAPPED_FROM = 1 << 18
"""Tensors with this many elements or more are mapped instead of copied."""
CHECKSUM = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically.

    Raises:
        OSError: if it cannot be written, as on a full disk.
    """
    with written_beside(path) as beside:
        save_tensors(beside, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file in place; raises OSError if it cannot be written."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, dict(metadata))
    except SafetensorError as error:  # safetensors has no OSError of its own
        raise OSError(f"{path.parent} cannot be written into ({error})") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Large tensors are read when they are used, and their memory is freed when they are dropped.

    Raises:
        DGQError: if the file is missing or damaged.
    """
    with opened(path) as file:
        sizes = {name: prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        # Copied, because a single small tensor that is kept would keep the whole file mapped.
        small = {n: file.get_tensor(n).clone() for n, size in sizes.items() if size < MAPPED_FROM}
        metadata = file.metadata() or {}
    return {n: small[n] if n in small else mapped(path, n) for n in sizes}, metadata


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An open safetensors file.

    Raises:
        DGQError: if it is missing, damaged, or tensors have no values here, as in FakeTensorMode.
    """
    check_regular(path)
    kind = type(torch.empty(0, device="cpu"))
    if kind is not Tensor:
        raise DGQError(f"{path} is not read where tensors are {kind.__name__}: load it before")
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
    """One tensor of a safetensors file, in a mapping of its own that is freed with it."""
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
    """Read what ``write_sealed_tensors`` wrote; the metadata include the checksum.

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
