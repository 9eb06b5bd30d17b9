"""Differences of a GPU: what is moved to it, and the memory that it holds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import memory

GIB = 2**30


def is_gpu(device: str) -> bool:
    """Whether a device is one of CUDA's."""
    return device.startswith("cuda")


def on(device: str, value: Any) -> Any:
    """Nested arguments on a device."""
    if isinstance(value, Mapping):
        return {name: on(device, item) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def resident_gib(device: str) -> float:
    """Memory in GiB held now by the device's allocator, or by this process."""
    if is_gpu(device):
        # What cuBLAS keeps after its first product, 32 MiB on Hopper, belongs to no model.
        torch._C._cuda_clearCublasWorkspaces()
        return torch.cuda.memory_allocated(device) / GIB
    return memory.resident_gib()
