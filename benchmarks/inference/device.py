"""Differences of a GPU: waiting for it, and counting its memory."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.inference import memory

GIB = 2**30


def is_gpu(device: str) -> bool:
    """Whether a device is one of CUDA's."""
    return device.startswith("cuda")


def wait(device: str) -> None:
    """Wait until all requested work is done."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def on(device: str, value: Any) -> Any:
    """Nested arguments on a device."""
    if isinstance(value, Mapping):
        return {name: on(device, item) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def forget_peak(device: str) -> None:
    """Reset the peak."""
    if is_gpu(device):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        memory.forget_peak()


def peak_gib(device: str) -> float:
    """Peak memory in GiB since ``forget_peak``."""
    if is_gpu(device):
        return torch.cuda.max_memory_allocated(device) / GIB
    return memory.peak_gib()


def resident_gib(device: str) -> float:
    """Memory in GiB held now by the device's allocator, or by this process."""
    if is_gpu(device):
        # What cuBLAS keeps after its first product, 32 MiB on Hopper, belongs to no model.
        torch._C._cuda_clearCublasWorkspaces()
        return torch.cuda.memory_allocated(device) / GIB
    return memory.resident_gib()
