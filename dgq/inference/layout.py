"""What a compiled graph assumes about quantized layers, as one string.

If two UNets have equal strings, a graph compiled for one is right for the other with the other's
tensors. The string covers classes, constants, all properties of tensors but their values, wherever
they are held, and which tensors are the same.
"""

import hashlib
from collections.abc import Mapping, Set
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from dgq.inference.laying_out import ADAPTED
from dgq.inference.weight_unit import unit_of
from dgq.unet.compiling import LaidOut

PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)


def layout_of(unet: nn.Module) -> str:
    """The layout of all laid-out modules of a UNet and their weight units; empty if none."""
    laid_out = [
        (name.replace(ADAPTED, ""), holder)
        for name, module in unet.named_modules()
        for holder in (module, unit_of(module))
        if isinstance(holder, LaidOut) and holder.is_laid_out
    ]
    if not laid_out:
        return ""
    # The calls are guarded where the UNet itself holds them, so mentions elsewhere are left out.
    seen = {id(unet.calls): 0}
    found = [(name, description(holder, seen)) for name, holder in laid_out]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def description(value: Any, seen: dict[int, int]) -> Any:
    """A value, and everything that it holds, as constants.

    Args:
        value: anything that a module may hold.
        seen: numbers of the objects described so far, by ``id``; further ones are added.
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
    # An object without attributes is described by its repr; a different one costs a compilation.
    return parts(vars(value), seen) if hasattr(value, "__dict__") else [repr(value)]


def is_frozen(value: Any) -> bool:
    """Whether an object is immutable, so that a copy of it is as good."""
    settings = getattr(value, "__dataclass_params__", None)
    return settings is not None and bool(settings.frozen)


def full_name(value: type | FunctionType) -> str:
    """Full name of a class or function, with its module."""
    return f"{value.__module__}.{value.__qualname__}"
