"""Where tensors are, and whether a conversion takes them elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor


def moves(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    """Whether a conversion, as ``nn.Module._apply`` gets it, takes a tensor to another device."""
    trial = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return fn(trial).device != tensor.device
