"""Products of codes and weights in plain torch.

Integer products are computed in float64, which represents each of their sums exactly.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dgq.ops import tile_layout
from dgq.ops.packed_weight import PackedWeight, multiplied
from dgq.ops.reference.quantization import quantize_gated

IMAGE = 4
"""Dimensions of an image's activation; a linear layer's may have any number."""


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
    """The product of codes ``[batch, ..., in]`` with a weight.

    Args:
        codes: uint8 or int8.
        weight: int8 ``[out, in]``.
        weight_scale: ``[out]``.
        scale: ``[steps]``, scale of the activations.
        bias: ``[steps, out]``, including the contribution of the zero points.
        step: ``[1]`` or ``[batch]``, the row of ``scale`` and ``bias`` of each sample.
        dtype: dtype of the output.
        residual: tensor to add, of the output's shape.

    Returns:
        ``[batch, ..., out]``.
    """
    plain = dense(weight, (weight_scale.shape[0], codes.shape[-1]))
    sums = F.linear(codes.double(), plain.double())
    return with_residual(scaled(sums, weight_scale, scale, bias, step), residual, dtype)


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
    """``int_linear`` in float32, with the output quantized as by ``quantize_gated``.

    Args:
        codes: as in ``int_linear``, like the next five.
        weight: int8 ``[2 out, in]``: rows of values, then of gates.
        next_scale: ``scale`` of ``quantize_gated``, like all that follow.
    """
    output = int_linear(codes, weight, weight_scale, scale, bias, step, torch.float32)
    tables = (next_scale, multiple, zero_point, factor, step)
    return quantize_gated(output, *tables, largest, offset)


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
    """The convolution of padded codes ``[batch, height, width, in]`` with a weight.

    Args:
        codes: uint8 or int8.
        weight: int8 ``[out, in / groups, *kernel]``.
        weight_scale: ``[out]``.
        scale: ``[steps]``, scale of the activations.
        bias: ``[steps, out]``, including the contribution of the zero points.
        step: ``[1]`` or ``[batch]``, the row of ``scale`` and ``bias`` of each sample.
        kernel: height and width.
        stride: stride of the convolution.
        dilation: dilation of the convolution.
        groups: groups of the convolution.
        dtype: dtype of the output.
        residual: tensor to add, of the output's shape.

    Returns:
        ``[batch, height, width, out]``.
    """
    planes = codes.permute(0, 3, 1, 2).double()
    kernels = dense(weight, (weight_scale.shape[0], codes.shape[-1] // groups, *kernel))
    sums = F.conv2d(planes, kernels.double(), None, stride, 0, dilation, groups)
    output = scaled(sums.permute(0, 2, 3, 1), weight_scale, scale, bias, step)
    return with_residual(output, residual, dtype).contiguous()


def int_conv2d_packed(
    codes: Tensor,
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
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
    """``int_conv2d``, or with a 1x1 kernel ``int_linear``, with a weight of 4-bit codes.

    Args:
        codes: as in ``int_conv2d``, or ``[batch, ..., in]``.
        packed: codes of the weight, as in ``PackedWeight``, like the next four.
        zero_point: zero point of each output channel.
        factor: factor of each input channel.
        shift: shift of each group of inputs.
        group_size: inputs per group.
        weight_scale: as in ``int_conv2d``, like all that follow.
    """
    weight = PackedWeight(packed, zero_point, factor, shift, group_size)
    full = multiplied(weight, codes.shape[-1] // groups, groups)
    tables = (weight_scale, scale, bias, step)
    if codes.ndim != IMAGE:
        return int_linear(codes, full.flatten(1), *tables, dtype, residual)
    shape = (kernel, stride, dilation, groups)
    return int_conv2d(codes, full.unflatten(2, kernel), *tables, *shape, dtype, residual)


def conv2d_packed(
    x: Tensor,
    packed: Tensor,
    zero_point: Tensor,
    shift: Tensor | None,
    group_size: int,
    weight_scale: Tensor,
    bias: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """A convolution or linear layer in floating point, with a weight of 4-bit codes.

    Args:
        x: ``[batch, height, width, in]``, or with a 1x1 kernel ``[batch, ..., in]``.
        packed: codes of the weight, as in ``PackedWeight``, like the next three.
        zero_point: zero point of each output channel.
        shift: shift of each group of inputs.
        group_size: inputs per group.
        weight_scale: ``[out]``.
        bias: ``[out]``.
        kernel: height and width, like those that follow.
        stride: stride of the convolution.
        padding: padding with zeros.
        dilation: dilation of the convolution.
        groups: groups of the convolution.

    Returns:
        ``[batch, height, width, out]``, or ``[batch, ..., out]``, of the type of ``x``.
    """
    weight = PackedWeight(packed, zero_point, None, shift, group_size)
    full = multiplied(weight, x.shape[-1] // groups, groups)
    full = (full * weight_scale[:, None, None]).to(x.dtype)
    if x.ndim != IMAGE:
        return F.linear(x, full.flatten(1), bias.to(x.dtype))
    kernels, planes = full.unflatten(2, kernel), x.permute(0, 3, 1, 2)
    output = F.conv2d(planes, kernels, bias.to(x.dtype), stride, padding, dilation, groups)
    return output.permute(0, 2, 3, 1).contiguous()


def scaled(sums: Tensor, weight_scale: Tensor, scale: Tensor, bias: Tensor, step: Tensor) -> Tensor:
    """Integer sums ``[batch, ..., out]``, scaled and with a bias, each sample at its step."""
    scale_row = step if scale.shape[0] > 1 else step.new_zeros(1)
    bias_row = step if bias.shape[0] > 1 else step.new_zeros(1)
    rows = [-1, *[1] * (sums.ndim - 2), 1]
    factor = scale[scale_row].view(rows) * weight_scale
    return sums * factor + bias[bias_row].view([*rows[:-1], bias.shape[1]])


def with_residual(output: Tensor, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Output plus residual, rounded once."""
    return (output if residual is None else output + residual).to(dtype)


def dense(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """A weight that may be in tiles or in oneDNN's layout, as an ordinary tensor.

    Args:
        weight: as an operator reads it.
        shape: of the ordinary tensor, ``[out, in / groups, ...]``.
    """
    if tile_layout.is_in_tiles(weight):
        return tile_layout.from_tiles(weight, shape)
    if not weight.is_mkldnn:
        return weight
    # The layout may be that of a linear layer, or have a dimension for the groups.
    plain = weight.to_dense()
    return (plain.t() if plain.ndim == 2 else plain).reshape(*shape)
