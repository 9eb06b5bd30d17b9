"""The operators on a GPU: Triton kernels, if Triton is installed."""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dgq.errors import first_line
from dgq.ops.copy_engine import has_copy_engine
from dgq.ops.library import LIBRARY
from dgq.ops.reference import int_linear

LAUNCHED = (
    *("quantize", "pad", "unpack", "unpack_all", "int_linear", "int_linear_gated"),
    *("int_conv2d", "int_conv2d_packed", "conv2d_packed"),
)
LEAST_CAPABILITY = (8, 0)
"""Ampere's: from here on Triton multiplies bytes on tensor cores."""

log = logging.getLogger(__name__)


def register() -> None:
    """Register Triton kernels with ``torch.ops.dgq``, for GPUs; imported when first used."""
    if has_triton():
        for name in LAUNCHED:
            LIBRARY.impl(name, launcher(name), "CUDA")


def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def launcher(name: str) -> Callable[..., Tensor]:
    """A launcher of the function of ``dgq.ops.triton`` with this name."""

    def launch(*arguments: Any, **named: Any) -> Tensor:
        from dgq.ops import triton

        with torch.cuda.device_of(arguments[0]):  # Triton launches on the current one
            output: Tensor = getattr(triton, name)(*arguments, **named)
        return output

    return launch


@cache
def why_not(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device, or None; tried once per device."""
    if torch.version.hip is not None:
        return "no integer kernels for AMD GPUs yet"
    if not has_triton():
        return "no integer kernels for cuda without Triton (pip install dgq[triton])"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"no integer kernels for {torch.cuda.get_device_name(device)}, older than Ampere"
    try:
        exact = products_are_exact(device)
    except torch.OutOfMemoryError:
        raise  # a passing condition, not a property of the device
    except Exception as error:  # whatever Triton raises where it finds no compiler or driver
        log.warning("Triton's kernels do not run on %s: %s", device, error)
        return f"Triton's kernels do not run here ({first_line(error)})"
    return None if exact else "Triton's integer products are not exact here"


def products_are_exact(device: torch.device) -> bool:
    """Whether the device multiplies bytes correctly, the largest ones and some random ones."""
    generator = torch.Generator().manual_seed(0)
    codes, weight = (
        torch.randint(-128, 128, (64, 256), generator=generator).to(torch.int8) for _ in range(2)
    )
    codes[:2], weight[:2] = -128, -128
    one, zero = torch.ones(64), torch.zeros(1, 64)
    tables = (one, one[:1], zero, torch.zeros(1, dtype=torch.long))
    expected = int_linear(codes, weight, *tables, torch.float32)
    on_device = [tensor.to(device) for tensor in (codes, weight, *tables)]
    from dgq.ops.triton import Tile

    # One tile: timing all candidates would compile each of them at every first load.
    tile = None if has_copy_engine(on_device[0].device) else Tile()
    found = launcher("int_linear")(*on_device, torch.float32, tile=tile)
    return torch.equal(found.cpu(), expected)


def features(device: torch.device) -> tuple[str, ...]:
    """Features of a GPU that decide how fast quantized models run."""
    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"compute capability {major}.{minor}"
