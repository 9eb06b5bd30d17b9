"""Products of bytes by oneDNN: its weight layout, and calls of it."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

WRITTEN = (torch.float32, torch.bfloat16)
"""Output dtypes of oneDNN's products; the second is fast on some CPUs only (``written_as``)."""

LARGEST_STRIDE = 2
"""oneDNN 3.12 makes a few convolutions with the stride 4 wrongly on AMX; UNets have at most 2."""

OWN_PRODUCT = 2**16
"""Codes per sample from which on a separate product costs less than scaling all samples' sums."""


def pack_linear(weight: Tensor) -> Tensor:
    """An int8 weight ``[out, in]`` in oneDNN's layout, so that it is not copied at each call."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
    return packed


def pack_conv2d(weight: Tensor, stride: list[int], dilation: list[int], groups: int) -> Tensor:
    """An int8 weight ``[out, in / groups, height, width]`` in oneDNN's layout.

    1x1 kernels are packed as linear weights: oneDNN would pack them anew at each call.
    """
    if is_linear(list(weight.shape[2:]), stride, groups):
        return pack_linear(weight.flatten(1))
    ones = weight.new_ones(weight.shape[0], dtype=torch.float32)
    packed: Tensor = torch.ops.onednn.qconv_prepack(
        weight.contiguous(), ones, 1.0, 0, stride, [0, 0], dilation, groups
    )
    return packed


def convolves(strides: Sequence[int]) -> bool:
    """Whether convolutions with these strides are left to oneDNN."""
    return all(stride <= LARGEST_STRIDE for stride in strides)


def is_linear(kernel: list[int], stride: list[int], groups: int) -> bool:
    """Whether a convolution is a linear layer on each pixel."""
    return groups == 1 and all(n == 1 for n in (*kernel, *stride))


def multiplies(
    codes: Tensor, weight: Tensor, weight_scale: Tensor, scale: Tensor, bias: Tensor, groups: int
) -> bool:
    """Whether operands agree: oneDNN checks little, and would read beyond the tables.

    Args:
        codes: uint8 ``[batch, ..., in]``.
        weight: as ``pack_linear`` or ``pack_conv2d`` returns it.
        weight_scale: ``[out]``.
        scale: scales of the codes, one per step.
        bias: ``[steps, out]``.
        groups: of a convolution.
    """
    tables = (weight_scale, scale, bias)
    if not weight.is_mkldnn or any(t.is_mkldnn or t.dtype != torch.float32 for t in tables):
        return False
    n_in, n_out = weight.shape if weight.ndim == 2 else (weight.shape[1], weight.shape[0])
    return (
        codes.dtype == torch.uint8
        and codes.shape[-1] == n_in * groups
        and weight_scale.shape == bias.shape[1:] == (n_out,)
    )


def linear(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: float,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """The sums of codes ``[batch, ..., in]`` and a packed weight, times both scales, plus a bias.

    Args:
        codes: uint8.
        weight: as ``pack_linear`` returns it.
        weight_scale: ``[out]``.
        scale: scale of the codes.
        bias: ``[out]``, or None.
        dtype: of the output, one of ``WRITTEN``.
    """
    zeros = _zeros(weight_scale.shape[0])
    tables = (weight_scale.contiguous(), zeros, None if bias is None else bias.contiguous())
    output: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, scale, 0, weight, *tables, 1.0, 0, dtype, "none", [], ""
    )
    return output


def conv2d(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: float,
    bias: Tensor | None,
    stride: list[int],
    dilation: list[int],
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    """The same for padded codes ``[batch, height, width, in]`` and a weight of ``pack_conv2d``."""
    zeros = _zeros(weight_scale.shape[0])
    codes, stride = _one_pixel_wide(codes, weight.shape[-1], stride, dilation)
    planes = codes.permute(0, 3, 1, 2)
    tables = (weight_scale.contiguous(), zeros, None if bias is None else bias.contiguous())
    output: Tensor = torch.ops.onednn.qconv2d_pointwise(
        *(planes, scale, 0, weight, *tables, stride, [0, 0], dilation),
        *(groups, 1.0, 0, dtype, "none", [], ""),
    )
    return output.permute(0, 2, 3, 1)


def _one_pixel_wide(
    codes: Tensor, width: int, stride: list[int], dilation: list[int]
) -> tuple[Tensor, list[int]]:
    """Codes and strides of the same convolution; its width does not move if one window fits.

    oneDNN 3.12 would convolve wrongly on AMX if that stride were not 1.

    Args:
        codes: ``[batch, height, width, in]``.
        width: of the kernel.
        stride: of height and width.
        dilation: of height and width.
    """
    span = dilation[1] * (width - 1) + 1
    if stride[1] == 1 or codes.shape[2] >= span + stride[1]:
        return codes, stride
    return codes[:, :, :span].contiguous(), [stride[0], 1]


@cache
def _zeros(n: int) -> Tensor:
    """Zero points of a weight that has none."""
    return torch.zeros(n, dtype=torch.int32, device="cpu")


@cache
def written_as(dtype: torch.dtype) -> torch.dtype:
    """The dtype that products write fast, from which outputs are converted to another one.

    Without bfloat16 instructions oneDNN writes bfloat16 by a loop without vectors, which takes a
    thousand times as long as writing float32.
    """
    has_bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return dtype if dtype in WRITTEN and has_bfloat16 else torch.float32


def at_steps(
    product: Callable[[Tensor, float, Tensor | None, torch.dtype], Tensor],
    codes: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """A product with each sample's scale and bias.

    oneDNN applies both as it writes, if all samples share them, or if each sample is large enough
    for a product of its own.
    """
    steps, written = step.tolist(), written_as(dtype)

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
