"""Our own CPU kernels: ``operators.cpp`` implements operators by them.

They are compiled when a UNet is prepared for a CPU, or an operator first runs on one. Without a
working compiler the operators use torch alone: slower, with the same values.
"""

import ctypes
import logging
import subprocess
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import torch

from dgq.ops import compiling, reference
from dgq.ops.library import LIBRARY, SCHEMAS

COMPILED = (
    *("quantize", "quantize_gated", "channel_ranges", "attention"),
    *("int_linear", "int_linear_gated", "int_conv2d"),
    *("soft_weight", "soft_weight_gradients", "rounding_penalty"),
)
"""Operators that ``operators.cpp`` implements."""

MARKING = ("quantize", "quantize_gated")
"""Operators that can mark samples with a NaN (``reference.quantize``)."""

ANY_DEVICE = "CompositeExplicitAutograd"

_LOADING = Lock()
log = logging.getLogger(__name__)


class Kernels(NamedTuple):
    """What the compiled kernels do on this CPU.

    Args:
        attention: attention in bfloat16.
        tile_attention: the same on tiles (AMX).
        products: products of bytes.
        tile_products: the same on tiles (AMX).
    """

    attention: bool
    tile_attention: bool
    products: bool
    tile_products: bool


def register() -> None:
    """Register the references of all operators, for any device, and overloads of some.

    The overload ``reference`` is what our kernels leave to torch: an operator cannot call one of
    its own implementations. ``marking`` marks samples with a NaN, which ``reference`` then does
    too. ``without_tiles`` computes as on CPUs without AMX.
    """
    for name, schema in SCHEMAS.items():
        plain = getattr(reference, name)
        if name not in COMPILED:
            LIBRARY.impl(name, plain, ANY_DEVICE)
            continue
        marking = schema.replace(") ->", ", Tensor(a!)? spoilt=None) ->")
        of_reference = marking if name in MARKING else schema
        LIBRARY.define(f"{name}.reference{of_reference}")
        LIBRARY.impl(f"{name}.reference", plain, ANY_DEVICE)
        _compile_first(name, "default", plain)
        if name in MARKING:
            LIBRARY.define(f"{name}.marking{marking}")
            _compile_first(name, "marking", plain)
    LIBRARY.define(f"attention.without_tiles{SCHEMAS['attention']}")
    _compile_first("attention", "without_tiles", reference.attention)


def _compile_first(name: str, overload: str, plain: Callable[..., Any]) -> None:
    """Register a reference; the first call on a CPU compiles our kernels and calls them."""
    operator = getattr(getattr(torch.ops.dgq, name), overload)

    def run(*arguments: Any) -> Any:
        if arguments[0].device.type == "cpu" and _loads_now():
            return operator(*arguments)
        return plain(*arguments)

    LIBRARY.impl(name if overload == "default" else f"{name}.{overload}", run, ANY_DEVICE)


def _loads_now() -> bool:
    """Load the kernels, unless that was tried before; returns whether this call has loaded them."""
    tried = _loaded.cache_info().currsize > 0
    return not tried and kernels() is not None


def kernels() -> Kernels | None:
    """Load the kernels, compiled at the first call; None if that fails.

    From then on the operators use them for tensors on a CPU.
    """
    with _LOADING:  # operators can be registered once only
        return _loaded()


@cache
def _loaded() -> Kernels | None:
    compiler = compiling.compiler()
    if compiler is None:
        names = ", ".join(compiling.COMPILERS)
        log.warning("no C++ compiler (%s): slower kernels of torch are used", names)
        return None
    try:
        library = compiling.loaded(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("our CPU kernels cannot be compiled (%s): those of torch are used", error)
        return None
    return Kernels(*(_has(library, name) for name in Kernels._fields))


def _has(library: ctypes.CDLL, name: str) -> bool:
    function = getattr(library, f"dgq_has_{name}")
    function.restype = ctypes.c_bool
    return bool(function())
