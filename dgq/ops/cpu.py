"""The operators on a CPU: integer products by oneDNN, and our own kernels where it has none."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from dgq.ops import native, reference
from dgq.ops.library import LIBRARY

WRITTEN = (torch.float32, torch.bfloat16)
"""What oneDNN's products put out."""

OWN_PRODUCT = 2**16
"""Codes of a sample from which on a product of its own costs less than scaling all of them."""


def register() -> None:
    """Let ``torch.ops.dgq`` use this file for tensors on a CPU."""
    for function in (
        *(quantize, quantize_gated, channel_ranges, int_linear, int_conv2d),
        attention,
    ):
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
        sums = _product(codes, pack_linear(weight), torch.ones(16), 1.0, None, torch.float32)
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


def pack_linear(weight: Tensor) -> Tensor:
    """An int8 weight ``[out, in]`` in the layout that oneDNN wants; no copy of it is needed."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
    return packed


def pack_conv2d(weight: Tensor, stride: list[int], dilation: list[int], groups: int) -> Tensor:
    """An int8 weight ``[out, in / groups, height, width]`` in the layout that oneDNN wants.

    1x1 kernels are packed as linear weights: oneDNN would pack them anew at each call.
    """
    if is_linear(list(weight.shape[2:]), stride, groups):
        return pack_linear(weight.flatten(1))
    ones = torch.ones(weight.shape[0])
    packed: Tensor = torch.ops.onednn.qconv_prepack(
        weight.contiguous(), ones, 1.0, 0, stride, [0, 0], dilation, groups
    )
    return packed


def is_linear(kernel: list[int], stride: list[int], groups: int) -> bool:
    """Whether a convolution is a linear layer on each pixel."""
    return groups == 1 and all(n == 1 for n in (*kernel, *stride))


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
    if kernels is None or x.dtype not in WRITTEN or x.numel() == 0:
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
        return _product(codes, weight, weight_scale, factor, row, output)

    return _at_steps(product, codes, scale, bias, step, dtype)


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
    if is_linear(kernel, stride, groups):
        return int_linear(codes, weight, weight_scale, scale, bias, step, dtype)
    zeros = _zeros(weight_scale.shape[0])

    def product(codes: Tensor, factor: float, row: Tensor | None, output: torch.dtype) -> Tensor:
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *(
                codes.permute(0, 3, 1, 2),
                factor,
                0,
                weight,
                weight_scale,
                zeros,
                row,
                stride,
                [0, 0],
                dilation,
            ),
            *(groups, 1.0, 0, output, "none", [], ""),
        )
        return result.permute(0, 2, 3, 1)

    return _at_steps(product, codes, scale, bias, step, dtype).contiguous()


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """As ``reference.attention``; in bfloat16 by a kernel that keeps scores in the cache."""
    kernels = native.kernels()
    if kernels is None or not kernels.can_attend(query, key, value, heads):
        return reference.attention(query, key, value, heads, scale)
    return kernels.attention(query, key, value, heads, scale)


def _product(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: float,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    zeros = _zeros(weight_scale.shape[0])
    output: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, scale, 0, weight, weight_scale, zeros, bias, 1.0, 0, dtype, "none", [], ""
    )
    return output


@cache
def _zeros(n: int) -> Tensor:
    """Zero points of a weight, which has none."""
    return torch.zeros(n, dtype=torch.int32)


def _at_steps(
    product: Callable[[Tensor, float, Tensor | None, torch.dtype], Tensor],
    codes: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """A product with each sample's scale and bias.

    oneDNN applies them, on the way out of its registers, if all samples have the same, or if each
    of them is large enough for a product of its own.
    """
    steps, written = step.tolist(), dtype if dtype in WRITTEN else torch.float32

    def at(codes: Tensor, step: int) -> Tensor:
        factor = float(scale[step if scale.shape[0] > 1 else 0])
        return product(codes, factor, bias[step if bias.shape[0] > 1 else 0], written).to(dtype)

    if len(set(steps)) == 1:
        return at(codes, steps[0])
    if codes[0].numel() >= OWN_PRODUCT:
        return torch.cat([at(*pair) for pair in zip(codes.split(1), steps, strict=True)])
    sums = product(codes, 1.0, None, torch.float32)
    rows = [-1, *[1] * (sums.ndim - 2)]
    if scale.shape[0] > 1:
        scale = scale[step]
    bias = bias[step] if bias.shape[0] > 1 else bias
    sums = sums.mul_(scale.view([*rows, 1])).add_(bias.view([*rows, bias.shape[1]]))
    return sums.to(dtype)
