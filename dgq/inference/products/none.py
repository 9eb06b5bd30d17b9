"""Devices without kernels: all layers compute in floating point."""

from collections.abc import Callable

import torch
from torch import Tensor

from dgq.inference.products.cpu import CpuProducts
from dgq.ops.reference import attention as reference_attention


class NoProducts(CpuProducts):
    """What a CPU has, but for the kernels, which no layer uses.

    Args:
        device: torch's name of the kind of device.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def features(self) -> tuple[str, ...]:
        """None that matter."""
        return ()

    def best_dtype(self) -> torch.dtype:
        """float32, which every device has."""
        return torch.float32

    def attention(self, dtype: torch.dtype) -> tuple[str, Callable[..., Tensor]]:
        """Torch's attention."""
        return "torch", reference_attention
