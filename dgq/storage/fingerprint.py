"""SHA-256 of tensors: their names, dtypes, shapes and values."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def network_sha256(network: nn.Module) -> str:
    """Hexadecimal SHA-256 of a network's tensors and their names."""
    digest = hashlib.sha256()
    add_tensors(digest, network)
    return digest.hexdigest()


def add_tensors(digest: "hashlib._Hash", network: nn.Module) -> None:
    """Add a network's tensors and their names to a hash."""
    for name, tensor in sorted(network.state_dict().items()):
        add_tensor(digest, name, tensor)


def tensors_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Hexadecimal SHA-256 of tensors by name, and of accompanying text."""
    digest = hashlib.sha256(json.dumps(sorted((metadata or {}).items())).encode())
    for name, tensor in sorted(tensors.items()):
        add_tensor(digest, name, tensor)
    return digest.hexdigest()


def add_tensor(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    """Add a tensor and its name to a hash."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().flatten()
    digest.update(flat.view(torch.uint8).numpy().data)
