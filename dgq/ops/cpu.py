"""The products on a CPU with weights in oneDNN's layout, and what a CPU multiplies fast."""

from functools import cache

import torch
from torch import Tensor

from dgq.ops import native, onednn, reference
from dgq.ops.library import LIBRARY

LARGEST_BYTE = 128
"""Largest magnitude of a signed byte."""

LARGEST_IN_PAIRS = 64
"""Largest weight for which two products with codes of 255, added up, fit into 16 bits."""


def register() -> None:
    """Register this file's products with ``torch.ops.dgq``.

    The dispatcher chooses them if any operand is in oneDNN's layout, which weights may be. Other
    weights are multiplied by ``operators.cpp``.
    """
    for function in (int_linear, int_conv2d):
        LIBRARY.impl(function.__name__, function, "MkldnnCPU")


@cache
def largest_weight_of_onednn() -> int:
    """The largest magnitude of weights that oneDNN multiplies with unsigned bytes exactly and fast.

    0 if there is none. Without VNNI instructions oneDNN sums products in pairs in 16 bits, which
    saturate (255 * 127 * 2 does not fit). This is measured, not looked up: what counts is what the
    library does.
    """
    if "avx2" not in features():
        return 0
    return next(filter(_is_exact, (LARGEST_BYTE, LARGEST_IN_PAIRS)), 0)


def _is_exact(largest: int) -> bool:
    codes = torch.full((2, 64), 255, dtype=torch.uint8, device="cpu")
    weight = torch.full((16, 64), -largest, dtype=torch.int8, device="cpu")
    try:
        packed, ones = onednn.pack_linear(weight), weight.new_ones(16, dtype=torch.float32)
        sums = onednn.linear(codes, packed, ones, 1.0, None, torch.float32)
    except (RuntimeError, AttributeError):
        return False
    return bool((sums == 255 * -largest * 64).all())


def products_are_exact() -> bool:
    """Whether products of unsigned bytes with all signed ones are exact and fast here."""
    return largest_weight_of_onednn() == LARGEST_BYTE or has_own_products()


def has_tile_products() -> bool:
    """Whether our own kernels multiply tiles of bytes here (AMX)."""
    kernels = native.kernels()
    return kernels is not None and kernels.tile_products


def has_own_products() -> bool:
    """Whether our own kernels multiply bytes here: on CPUs with AVX2, with a compiler."""
    kernels = native.kernels()
    return kernels is not None and kernels.products


def features() -> tuple[str, ...]:
    """Features of the CPU that decide how fast quantized models run."""
    has = torch.cpu.get_capabilities()
    names = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return tuple(name for name in names if has.get(name, False))


def int_linear(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    """As ``reference.int_linear``, by oneDNN."""
    operands = (codes, weight, weight_scale, scale, bias, step)
    if not onednn.multiplies(*operands[:5], groups=1):
        return reference.int_linear(*operands, dtype, residual)
    if residual is not None:
        output = int_linear(*operands, torch.float32)
        return reference.with_residual(output, residual, dtype)

    def product(codes: Tensor, factor: float, row: Tensor | None, output: torch.dtype) -> Tensor:
        return onednn.linear(codes, weight, weight_scale, factor, row, output)

    return onednn.at_steps(product, codes, scale, bias, step, dtype)


def int_conv2d(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    """As ``reference.int_conv2d``, by oneDNN."""
    operands, window = (codes, weight, weight_scale, scale, bias, step), (kernel, stride, dilation)
    if not onednn.multiplies(*operands[:5], groups=groups):
        return reference.int_conv2d(*operands, *window, groups, dtype, residual)
    if residual is not None:
        output = int_conv2d(*operands, *window, groups, torch.float32)
        return reference.with_residual(output, residual, dtype)
    if onednn.is_linear(kernel, stride, groups):
        return int_linear(codes, weight, weight_scale, scale, bias, step, dtype)
    strides = (stride, dilation, groups)

    def product(codes: Tensor, factor: float, row: Tensor | None, output: torch.dtype) -> Tensor:
        return onednn.conv2d(codes, weight, weight_scale, factor, row, *strides, output)

    return onednn.at_steps(product, codes, scale, bias, step, dtype).contiguous()
