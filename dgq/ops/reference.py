"""What the operators compute, in plain torch: on any device, and where nothing is faster.

Integer products are made in float64, which holds every sum of them exactly.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgq.ops.packed_weight import PackedWeight, multiplied

IMAGE = 4
"""Dimensions of an image's activation; linear layers read any number."""


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
) -> Tensor:
    """Codes ``clamp(round(x / (scale multiple)) + zero_point, 0, largest) * factor - offset``.

    Args:
        x: ``[batch, height, width, channels]``, ``[batch, tokens, channels]`` or
            ``[batch, channels]``.
        scale: ``[steps]``, the finest scale.
        multiple: ``[channels]``, whole numbers: each channel's scale in units of the finest.
        zero_point: ``[steps, channels]``, whole numbers.
        factor: ``[channels]``, whole numbers that the codes are multiplied by.
        step: ``[1]`` or ``[batch]``, the row of ``scale`` and ``zero_point`` of each sample.
        largest: largest code before the multiplication.
        padding: padding of height and width, with the codes of zero; or empty.
        offset: subtracted to get int8 codes; None for uint8 codes.

    Returns:
        Codes of the shape of ``x``, padded.
    """
    step = step if scale.shape[0] > 1 else step.new_zeros(1)
    rows = [-1, *[1] * (x.ndim - 2), 1]
    if any(padding):
        height, width = padding
        x = F.pad(x, (0, 0, width, width, height, height))
    codes = (x.float() / (scale[step].view(rows) * multiple)).round()
    zeros = zero_point[step].float().view([*rows[:-1], x.shape[-1]])
    codes = (codes + zeros).clamp(0, largest) * factor - (offset or 0)
    return codes.to(code_dtype(offset))


def code_dtype(offset: int | None) -> torch.dtype:
    """Of codes that an offset is subtracted from."""
    return torch.uint8 if offset is None else torch.int8


def quantize_gated(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    offset: int | None = None,
) -> Tensor:
    """Codes of ``value * gelu(gate)`` (GEGLU, 2002.05202).

    Args:
        x: ``[batch, ..., 2 channels]``: values, then gates.
        scale: as in ``quantize``, like all that follow.
    """
    value, gate = x.float().chunk(2, -1)
    tables = (scale, multiple, zero_point, factor, step)
    return quantize(value * F.gelu(gate), *tables, largest, [], offset)


def pad(codes: Tensor, of_zero: Tensor, padding: list[int]) -> Tensor:
    """Codes of an image with those of zero around it.

    Args:
        codes: ``[batch, height, width, channels]``.
        of_zero: ``[1 or batch, channels]``.
        padding: of height and width.
    """
    height, width = padding
    padded = of_zero[:, None, None].expand(padded_shape(codes, padding)).clone()
    padded[:, height : padded.shape[1] - height, width : padded.shape[2] - width] = codes
    return padded


def padded_shape(x: Tensor, padding: list[int]) -> list[int]:
    """Of ``[batch, height, width, channels]`` with padding; of other tensors their own."""
    shape = list(x.shape)
    for dim, pad in zip((1, 2), padding, strict=False):
        shape[dim] += 2 * pad
    return shape


def channel_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each channel of each sample, both float32 ``[batch, channels]``.

    Args:
        x: ``[batch, height, width, channels]`` or ``[batch, tokens, channels]``.
    """
    x = x.flatten(1, -2)
    return x.amin(1).float(), x.amax(1).float()


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
        residual: to be added, of the output's shape.

    Returns:
        ``[batch, ..., out]``.
    """
    sums = F.linear(codes.double(), dense(weight).double())
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
    """``int_linear`` in float32, whose output is quantized as ``quantize_gated`` does.

    Args:
        codes: as in ``int_linear``, like the next five.
        weight: int8 ``[2 out, in]``: of values, then of gates.
        next_scale: ``scale`` of ``quantize_gated``, like all that follow.
    """
    output = int_linear(codes, weight, weight_scale, scale, bias, step, torch.float32)
    tables = (next_scale, multiple, zero_point, factor, step)
    return quantize_gated(output, *tables, largest, offset)


def unpack(
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
    channels: int,
) -> Tensor:
    """A weight of 4-bit codes as bytes: int8 ``[out, taps, channels]``.

    Args:
        packed: codes, as in ``PackedWeight``, like the next four.
        channels: of the input.
    """
    weight = PackedWeight(packed, zero_point, factor, shift, group_size)
    return multiplied(weight, channels, 1).transpose(1, 2).contiguous()


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
        residual: to be added, of the output's shape.

    Returns:
        ``[batch, height, width, out]``.
    """
    planes = codes.permute(0, 3, 1, 2).double()
    # oneDNN's layout may be that of a linear layer, or have a dimension for the groups.
    kernels = dense(weight).reshape(weight_scale.shape[0], -1, *kernel).double()
    sums = F.conv2d(planes, kernels, None, stride, 0, dilation, groups)
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


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    """Softmax attention of ``[batch, tokens, heads * head_dim]``; has the shape of ``query``."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


def scaled(sums: Tensor, weight_scale: Tensor, scale: Tensor, bias: Tensor, step: Tensor) -> Tensor:
    """Integer sums ``[batch, ..., out]`` as what they stand for, each sample at its step."""
    scale_row = step if scale.shape[0] > 1 else step.new_zeros(1)
    bias_row = step if bias.shape[0] > 1 else step.new_zeros(1)
    rows = [-1, *[1] * (sums.ndim - 2), 1]
    factor = scale[scale_row].view(rows) * weight_scale
    return sums * factor + bias[bias_row].view([*rows[:-1], bias.shape[1]])


def with_residual(output: Tensor, residual: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The sum of both, rounded once."""
    return (output if residual is None else output + residual).to(dtype)


def dense(weight: Tensor) -> Tensor:
    """A weight that may be laid out for oneDNN, as an ordinary tensor ``[out, ...]``."""
    if not weight.is_mkldnn:
        return weight
    plain = weight.to_dense()
    return plain.t() if plain.ndim == 2 else plain
