"""The operators on a CPU, by oneDNN and by our own kernels."""

from functools import cache

import torch
from torch import Tensor

from dgq.ops import native, onednn, operand_checks, reference, tile_layout
from dgq.ops.library import LIBRARY

LARGEST_BYTE = 128
"""Largest magnitude of a signed byte."""

LARGEST_IN_PAIRS = 64
"""Largest weight for which two products with codes of 255, added up, fit into 16 bits."""


def register() -> None:
    """Register this file's functions with ``torch.ops.dgq``, for tensors on a CPU."""
    for function in (
        *(quantize, quantize_gated, channel_ranges, attention),
        *(int_linear, int_linear_gated, int_conv2d),
    ):
        LIBRARY.impl(function.__name__, function, "CPU")
    for function in (int_linear, int_conv2d):
        # A weight in oneDNN's layout makes the dispatcher choose this key.
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
    return _tile_kernels() is not None


def _tile_kernels() -> native.Kernels | None:
    """The compiled kernels if they multiply tiles here: those for other CPUs write nothing."""
    kernels = native.kernels()
    return kernels if kernels is not None and kernels.has_tile_products else None


def has_own_products() -> bool:
    """Whether our own kernels multiply bytes here: on CPUs with AVX2, with a compiler."""
    kernels = native.kernels()
    return kernels is not None and kernels.has_products


def features() -> tuple[str, ...]:
    """Features of the CPU that decide how fast quantized models run."""
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
    """As ``reference.quantize``; unsigned codes, as oneDNN reads them, in one pass."""
    tables = (scale, multiple, zero_point, factor, step)
    kernels = native.kernels()
    fits = offset is None and operand_checks.can_quantize(x, x.shape[-1], *tables)
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
    fits = offset is None and operand_checks.can_quantize(x, x.shape[-1] // 2, *tables)
    if kernels is None or not fits:
        return reference.quantize_gated(x, *tables, largest, offset, spoilt)
    return kernels.quantize_gated(x, *tables, largest, spoilt)


def channel_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """As ``reference.channel_ranges``, in one pass."""
    kernels = native.kernels()
    if kernels is None or x.dtype not in operand_checks.READ or x.numel() == 0:
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
    """As ``reference.int_linear``, by oneDNN where the weight is in its layout, else by ours."""
    tables = (weight_scale, scale, bias, step)
    if residual is not None:
        output = int_linear(codes, weight, *tables, torch.float32)
        return reference.with_residual(output, residual, dtype)
    if tile_layout.is_in_tiles(weight):
        tiled = _by_tiles(_as_images(codes), weight, *tables, [1, 1], [1, 1], [1, 1], dtype)
        if tiled is None:
            plain = tile_layout.from_tiles(weight, (weight_scale.shape[0], codes.shape[-1]))
            return reference.int_linear(codes, plain, *tables, dtype)
        return tiled.view(*codes.shape[:-1], tiled.shape[-1])
    if not weight.is_mkldnn:
        shape = codes.shape
        ours = _convolved(_as_images(codes), weight[:, :, None, None], *tables, [1, 1], [1, 1])
        if ours is None:
            return reference.int_linear(codes, weight, *tables, dtype)
        return ours.view(*shape[:-1], ours.shape[-1]).to(dtype)

    def product(codes: Tensor, factor: float, row: Tensor | None, output: torch.dtype) -> Tensor:
        return onednn.linear(codes, weight, weight_scale, factor, row, output)

    return onednn.at_steps(product, codes, scale, bias, step, dtype)


def int_linear_gated(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    next_scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    largest: int,
    offset: int | None = None,
) -> Tensor:
    """As ``reference.int_linear_gated``; for weights in tiles in one pass."""
    tables, kernels = (next_scale, multiple, zero_point, factor), _tile_kernels()
    operands = (_as_images(codes), weight, weight_scale, scale, bias, step)
    fits = offset is None and operand_checks.can_multiply_tiles_gated(operands, tables)
    if kernels is not None and fits:
        gated = kernels.multiply_tiles_gated(*operands, *tables, largest)
        return gated.view(*codes.shape[:-1], gated.shape[-1])
    output = int_linear(codes, *operands[1:], torch.float32)
    return quantize_gated(output, *tables, step, largest, offset)


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
    """As ``reference.int_conv2d``, by oneDNN where the weight is in its layout, else by ours."""
    operands, window = (codes, weight, weight_scale, scale, bias, step), (kernel, stride, dilation)
    if residual is not None:
        output = int_conv2d(*operands, *window, groups, torch.float32)
        return reference.with_residual(output, residual, dtype)
    if tile_layout.is_in_tiles(weight):
        tiled = _by_tiles(*operands, *window, dtype)
        if tiled is not None:
            return tiled
        shape = (weight_scale.shape[0], codes.shape[-1], *kernel)
        plain = tile_layout.from_tiles(weight, shape)
        return reference.int_conv2d(codes, plain, *operands[2:], *window, groups, dtype)
    if not weight.is_mkldnn:
        ours = _convolved(*operands, stride, dilation)
        if ours is None:
            return reference.int_conv2d(*operands, *window, groups, dtype)
        return ours.to(dtype)
    if onednn.is_linear(kernel, stride, groups):
        return int_linear(codes, weight, weight_scale, scale, bias, step, dtype)
    strides = (stride, dilation, groups)

    def product(codes: Tensor, factor: float, row: Tensor | None, output: torch.dtype) -> Tensor:
        return onednn.conv2d(codes, weight, weight_scale, factor, row, *strides, output)

    return onednn.at_steps(product, codes, scale, bias, step, dtype).contiguous()


def _as_images(codes: Tensor) -> Tensor:
    """The input ``[batch, ..., in]`` of a linear layer as images ``[batch, 1, tokens, in]``."""
    return codes.reshape(codes.shape[0], 1, codes.shape[1:-1].numel(), codes.shape[-1])


def _by_tiles(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    dtype: torch.dtype,
) -> Tensor | None:
    """As ``reference.int_conv2d``, for a weight in tiles; None where our kernel does not apply."""
    operands, kernels = (codes, weight, weight_scale, scale, bias, step), _tile_kernels()
    window = (kernel, stride, dilation)
    if kernels is None or not operand_checks.can_multiply_tiles(*operands, *window):
        return None
    written = dtype if dtype in operand_checks.READ else torch.float32
    return kernels.multiply_tiles(*operands, *window, written).to(dtype)


def _convolved(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    stride: list[int],
    dilation: list[int],
) -> Tensor | None:
    """As ``reference.int_conv2d``, in float32, by our own kernel; None where it does not apply."""
    operands = (codes, weight, weight_scale, scale, bias, step, stride, dilation)
    kernels = native.kernels()
    if kernels is None or not kernels.has_products or not operand_checks.can_convolve(*operands):
        return None
    return kernels.convolve(*operands)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """As ``reference.attention``; in bfloat16 by a kernel that keeps scores in the cache."""
    operands, kernels = (query, key, value, heads, scale), native.kernels()
    if kernels is None or not kernels.has_attention or not operand_checks.can_attend(*operands):
        return reference.attention(*operands)
    return kernels.attention(*operands)
