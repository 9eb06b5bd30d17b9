"""Hashes of networks: of all that determines a pipeline's images, of what measures them."""

import hashlib
import json

import torch
from diffusers import DiffusionPipeline
from torch import nn


def pipeline_fingerprint(pipeline: DiffusionPipeline) -> str:
    """SHA-256 of the names and tensors of every network and of the sampler's configuration."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if isinstance(component, nn.Module):
            digest.update(name.encode())
            _add_tensors(digest, component)
    sampler = {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")}
    sampler["class"] = type(pipeline.scheduler).__name__
    digest.update(json.dumps(sampler, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def short_hash(network: nn.Module) -> str:
    """Eight digits of the SHA-256 of a network's tensors and their names."""
    digest = hashlib.sha256()
    _add_tensors(digest, network)
    return digest.hexdigest()[:8]


def _add_tensors(digest: "hashlib._Hash", module: nn.Module) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
