"""Differences of a GPU: how it is told, and the memory that it holds."""

import torch

from benchmarks.inference import memory

GIB = 2**30


def is_gpu(device: str) -> bool:
    """Whether a device is one of CUDA's."""
    return device.startswith("cuda")


def resident_gib(device: str) -> float:
    """Memory in GiB held now by the device's allocator, or by this process."""
    if is_gpu(device):
        # What cuBLAS keeps after its first product, 32 MiB on Hopper, belongs to no model.
        torch._C._cuda_clearCublasWorkspaces()
        return torch.cuda.memory_allocated(device) / GIB
    return memory.resident_gib()
