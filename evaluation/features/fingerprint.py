"""Short hashes of the networks used for measuring."""

from torch import nn

from dgq.storage.fingerprint import network_sha256


def short_hash(network: nn.Module) -> str:
    """Eight digits of the SHA-256 of a network's tensors and their names."""
    return network_sha256(network)[:8]
