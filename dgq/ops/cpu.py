"""The operators on a CPU: integer products by oneDNN, and our own kernels where it has none."""

from functools import cache

import torch
from torch import Tensor

from dgq.ops import native, onednn, reference
from dgq.ops.library import LIBRARY


def register() -> None:
    """Let ``torch.ops.dgq`` use this file for tensors on a CPU."""
    operators = (quantize, quantize_gated, channel_ranges, int_linear, int_conv2d, attention)
    for function in operators:
        LIBRARY.impl(function.__name__, function, "CPU")
    for function in (int_linear, int_conv2d):
        # A weight in oneDNN's layout decides what the dispatcher chooses.
        LIBRARY.impl(function.__name__, function, "MkldnnCPU")


@cache
def products_are_exact() -> bool:
    """Whether products of unsigned and signed bytes are exact here.

    Without the VNNI instructions they are summed in pairs in 16 bits, which saturate (255 * 127 * 2
    does not fit). Tried rather than looked up: what counts is what the library does.
    """
    codes = torch.full((2, 64), 255, dtype=torch.uint8)
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    try:
        packed, ones = onednn.pack_linear(weight), torch.ones(16)
        sums = onednn.linear(codes, packed, ones, 1.0, None, torch.float32)
    except (RuntimeError, AttributeError):
        return False
    return bool((sums == 255 * 127 * 64).all()) and _has_fast_products()


def _has_fast_products() -> bool:
    """Whether the CPU multiplies bytes by instructions of their own."""
    return any(name in ("avx512_vnni", "avx_vnni", "amx_int8") for name in features())


def features() -> tuple[str, ...]:
    """What of the CPU decides how fast quantized models run."""
    has = torch.cpu.get_capabilities()
    names = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return tuple(name for name in names if has.get(name, False))


def quantize(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    padding: list[int],
    offset: int | None = None,
    spoilt: Tensor | None = None,
) -> Tensor:
    """As ``reference.quantize``; codes without a sign, which oneDNN wants, in one pass."""
    tables = (scale, multiple, zero_point, factor, step)
    kernels = native.kernels()
    fits = offset is None and native.can_quantize(x, x.shape[-1], *tables)
    if kernels is None or not fits:
        return reference.quantize(x, *tables, largest, padding, offset, spoilt)
    return kernels.quantize(x, *tables, largest, padding, spoilt)


def quantize_gated(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    offset: int | None = None,
    spoilt: Tensor | None = None,
) -> Tensor:
    """As ``reference.quantize_gated``, in one pass."""
    tables = (scale, multiple, zero_point, factor, step)
    kernels = native.kernels()
    fits = offset is None and native.can_quantize(x, x.shape[-1] // 2, *tables)
    if kernels is None or not fits:
        return reference.quantize_gated(x, *tables, largest, offset, spoilt)
    return kernels.quantize_gated(x, *tables, largest, spoilt)


def channel_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """As ``reference.channel_ranges``, in one pass."""
    kernels = native.kernels()
    if kernels is None or x.dtype not in native.READ or x.numel() == 0:
        return reference.channel_ranges(x)
    return kernels.channel_ranges(x)


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
    if residual is not None:
        output = int_linear(codes, weight, weight_scale, scale, bias, step, torch.float32)
        return reference.with_residual(output, residual, dtype)
    if not weight.is_mkldnn:
        return reference.int_linear(codes, weight, weight_scale, scale, bias, step, dtype)

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
    if residual is not None:
        operands = (codes, weight, weight_scale, scale, bias, step)
        output = int_conv2d(*operands, kernel, stride, dilation, groups, torch.float32)
        return reference.with_residual(output, residual, dtype)
    if not weight.is_mkldnn:
        return reference.int_conv2d(
            *(codes, weight, weight_scale, scale, bias, step),
            *(kernel, stride, dilation, groups, dtype),
        )
    if onednn.is_linear(kernel, stride, groups):
        return int_linear(codes, weight, weight_scale, scale, bias, step, dtype)
    window = (stride, dilation, groups)

    def product(codes: Tensor, factor: float, row: Tensor | None, output: torch.dtype) -> Tensor:
        return onednn.conv2d(codes, weight, weight_scale, factor, row, *window, output)

    return onednn.at_steps(product, codes, scale, bias, step, dtype).contiguous()


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """As ``reference.attention``; in bfloat16 by a kernel that keeps scores in the cache."""
    kernels = native.kernels()
    if kernels is None or not kernels.can_attend(query, key, value, heads):
        return reference.attention(query, key, value, heads, scale)
    return kernels.attention(query, key, value, heads, scale)
