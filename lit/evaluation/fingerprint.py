"""Hashes of networks: of all that determines a pipeline's images, of what measures them."""

import hashlib
import json

from diffusers import DiffusionPipeline
from torch import nn

from dgq.fingerprint import add_tensors, network_sha256


def pipeline_fingerprint(pipeline: DiffusionPipeline) -> str:
    """SHA-256 of the names and tensors of every network and of the sampler's configuration."""
    digest = hashlib.sha256()
    for name, component in sorted(pipeline.components.items()):
        if isinstance(component, nn.Module):
            digest.update(name.encode())
            add_tensors(digest, component)
    sampler = {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")}
    sampler["class"] = type(pipeline.scheduler).__name__
    digest.update(json.dumps(sampler, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def short_hash(network: nn.Module) -> str:
    """Eight digits of the SHA-256 of a network's tensors and their names."""
    return network_sha256(network)[:8]
