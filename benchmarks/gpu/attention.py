"""Attention of Stable Diffusion 1.4's shapes with each of torch's fused kernels."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.inference.peaks import seconds_of
from benchmarks.inference.turns import Turns

BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
HEADS = 8
DIMS = {4096: 40, 1024: 80, 256: 160}
"""Head dimensions, by the number of pixels, for 64x64 latents."""
TEXT_TOKENS = 77
BATCHES = (2, 16)
TO_REHEARSE = {64: 40}


@torch.no_grad()
def measure_attention(device: str, turns: Turns, rehearse: bool) -> Iterator[dict[str, Any]]:
    """All results so far, after each shape; plain values for JSON."""
    found: list[dict[str, Any]] = []
    dims = TO_REHEARSE if rehearse else DIMS
    for batch, (queries, dim) in product((1,) if rehearse else BATCHES, dims.items()):
        for keys in (queries, TEXT_TOKENS):
            seconds = {}
            with turns.alone():
                for backend in BACKENDS:
                    seconds[backend.name] = attempt(backend, batch, queries, keys, dim, device)
            shape = {"batch": batch, "queries": queries, "keys": keys, "dim": dim}
            found.append(shape | {"seconds": seconds})
            yield {"attention": found}


def attempt(
    backend: SDPBackend, batch: int, queries: int, keys: int, dim: int, device: str
) -> float | str:
    """Seconds of a call in bfloat16, or the reason why the backend cannot run."""
    q, k, v = (
        torch.randn(batch, tokens, HEADS, dim, device=device, dtype=torch.bfloat16).transpose(1, 2)
        for tokens in (queries, keys, keys)
    )
    try:
        with sdpa_kernel(backend):
            return seconds_of(partial(F.scaled_dot_product_attention, q, k, v), device)
    except RuntimeError as error:  # not of this shape, or not on this device
        return str(error).splitlines()[0][:200]
