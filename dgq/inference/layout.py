"""What a compiled graph takes for granted of quantized layers, as one string.

Equal strings mean that a graph made for one UNet computes what the other one does, with its
tensors: classes, constants, and everything of the tensors but their values, wherever they are held,
and which of them are the same.
"""

import hashlib
from collections.abc import Mapping, Set
from dataclasses import is_dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from dgq.inference.laying_out import ADAPTED
from dgq.unet.compiling import LaidOut

PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


def layout_of(unet: nn.Module) -> str:
    """That of all modules of a UNet that are laid out; empty without any."""
    laid_out = {
        name.replace(ADAPTED, ""): module
        for name, module in unet.named_modules()
        if isinstance(module, LaidOut) and module.is_laid_out
    }
    if not laid_out:
        return ""
    # Guarded where the UNet holds them, whoever else does.
    seen = {id(unet.calls): 0}
    found = [(name, description(module, seen)) for name, module in laid_out.items()]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def description(value: Any, seen: dict[int, int]) -> Any:
    """A value, and all that it holds, as constants.

    Args:
        value: anything that a module may hold.
        seen: numbers of the objects that were described, by ``id``; others are added.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, type | FunctionType):
        return full_name(value)
    if id(value) in seen:
        return ("seen", seen[id(value)])
    if not is_frozen(value):
        seen[id(value)] = len(seen)
    return (full_name(type(value)), *parts(value, seen))


def parts(value: Any, seen: dict[int, int]) -> list[Any]:
    """``description`` of what an object consists of."""
    if isinstance(value, Tensor):
        sizes = (tuple(value.shape), value.stride())
        return [*sizes, value.dtype, value.device, value.requires_grad]
    if isinstance(value, Mapping):
        return [(key, description(held, seen)) for key, held in value.items()]
    if isinstance(value, list | tuple):
        return [description(held, seen) for held in value]
    if isinstance(value, Set):
        return sorted(repr(held) for held in value)
    # Of what has no attributes, what it prints; different prints cost a compilation.
    return parts(vars(value), seen) if hasattr(value, "__dict__") else [repr(value)]


def is_frozen(value: Any) -> bool:
    """Whether an object is as good as its copy."""
    return is_dataclass(value) and bool(getattr(value, "__dataclass_params__").frozen)  # noqa: B009


def full_name(value: type | FunctionType) -> str:
    """Of a class or function, with its module."""
    return f"{value.__module__}.{value.__qualname__}"
