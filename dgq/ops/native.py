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
    its own implementations. ``marking`` marks samples with a NaN. ``without_tiles`` computes as on
    CPUs without AMX.
    """
    for name, schema in SCHEMAS.items():
        plain = getattr(reference, name)
        if name not in COMPILED:
            LIBRARY.impl(name, plain, ANY_DEVICE)
            continue
        LIBRARY.impl(name, _compiling_first(name, plain), ANY_DEVICE)
        if name in MARKING:
            schema = schema.replace(") ->", ", Tensor(a!)? spoilt=None) ->")
            _overload(f"{name}.marking", schema, plain)
        _overload(f"{name}.reference", schema, plain)
    _overload("attention.without_tiles", SCHEMAS["attention"], reference.attention)


def _overload(name: str, schema: str, plain: Callable[..., Any]) -> None:
    LIBRARY.define(name + schema)
    LIBRARY.impl(name, plain, ANY_DEVICE)


def _compiling_first(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The reference of an operator; the first call on a CPU compiles our kernels and calls them."""
    operator = getattr(torch.ops.dgq, name).default

    def run(*arguments: Any) -> Any:
        if arguments[0].device.type == "cpu" and _loads_now():
            return operator(*arguments)
        return plain(*arguments)

    return run


def _loads_now() -> bool:
    """Load the kernels, unless that was tried; returns whether there are any that were not."""
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
