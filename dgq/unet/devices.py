"""Where tensors are, and what a conversion, as ``nn.Module._apply`` gets it, does to them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dgq.errors import DGQError, first_line


def usable_device(device: Any) -> torch.device:
    """A device that a user named.

    Raises:
        DGQError: if there is no such device here.
    """
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise DGQError(
            f"the device {device!r} cannot be used here: {first_line(error):.120}"
        ) from error


def moves(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> bool:
    """Whether a conversion takes a tensor to another device."""
    trial = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return fn(trial).device != tensor.device


def dtype_after(fn: Callable[[Tensor], Tensor]) -> torch.dtype | None:
    """The dtype that a conversion gives to floating-point tensors; None if it keeps their own."""
    single, half = (fn(torch.empty(0, dtype=d)).dtype for d in (torch.float32, torch.float16))
    return single if single == half else None
