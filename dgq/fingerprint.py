"""SHA-256 of a network: of the names, types, shapes and values of its tensors."""

import hashlib

import torch
from torch import nn


def network_sha256(network: nn.Module) -> str:
    """Hexadecimal SHA-256 of a network's tensors and their names."""
    digest = hashlib.sha256()
    add_tensors(digest, network)
    return digest.hexdigest()


def add_tensors(digest: "hashlib._Hash", network: nn.Module) -> None:
    """Add a network's tensors and their names to a hash."""
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
