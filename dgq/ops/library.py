"""The operators' schemas, shapes and device-independent implementations.

A compiled or exported graph holds them as they are. Each has a meta kernel (its output's shape), a
reference that runs on any device, and fast implementations in a file for each device, which
``torch.library`` dispatches to.

The arithmetic of both products, for the codes of a sample at sampler step ``t``::

    output = scale[t] * weight_scale * sum(codes * weight) + bias[t]

Zero points do not appear: what they add is known beforehand and part of ``bias``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dgq.ops import reference

LIBRARY = torch.library.Library("dgq", "DEF")

LIBRARY.define(
    "quantize(Tensor x, Tensor scale, Tensor multiple, Tensor zero_point, Tensor factor, "
    "Tensor step, int largest, int[] padding, int? offset=None) -> Tensor"
)
LIBRARY.define(
    "quantize_gated(Tensor x, Tensor scale, Tensor multiple, Tensor zero_point, Tensor factor, "
    "Tensor step, int largest, int? offset=None) -> Tensor"
)
LIBRARY.define("pad(Tensor codes, Tensor of_zero, int[] padding) -> Tensor")
LIBRARY.define("channel_ranges(Tensor x) -> (Tensor, Tensor)")
LIBRARY.define(
    "int_linear(Tensor codes, Tensor weight, Tensor weight_scale, Tensor scale, Tensor bias, "
    "Tensor step, ScalarType dtype, Tensor? residual=None) -> Tensor"
)
LIBRARY.define(
    "int_linear_gated(Tensor codes, Tensor weight, Tensor weight_scale, Tensor scale, Tensor bias, "
    "Tensor step, Tensor next_scale, Tensor multiple, Tensor zero_point, Tensor factor, "
    "int largest, int? offset=None) -> Tensor"
)
LIBRARY.define(
    "unpack(Tensor packed, Tensor zero_point, Tensor? factor, Tensor? shift, int group_size, "
    "int channels) -> Tensor"
)
LIBRARY.define(
    "int_conv2d(Tensor codes, Tensor weight, Tensor weight_scale, Tensor scale, Tensor bias, "
    "Tensor step, int[] kernel, int[] stride, int[] dilation, int groups, ScalarType dtype, "
    "Tensor? residual=None) -> Tensor"
)
LIBRARY.define(
    "int_conv2d_packed(Tensor codes, Tensor packed, Tensor zero_point, Tensor? factor, "
    "Tensor? shift, int group_size, Tensor weight_scale, Tensor scale, Tensor bias, Tensor step, "
    "int[] kernel, int[] stride, int[] dilation, int groups, ScalarType dtype, "
    "Tensor? residual=None) -> Tensor"
)
LIBRARY.define(
    "conv2d_packed(Tensor x, Tensor packed, Tensor zero_point, Tensor? shift, int group_size, "
    "Tensor weight_scale, Tensor bias, int[] kernel, int[] stride, int[] padding, "
    "int[] dilation, int groups) -> Tensor"
)
LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, int heads, float scale) -> Tensor"
)

quantize = torch.ops.dgq.quantize
quantize_gated = torch.ops.dgq.quantize_gated
pad = torch.ops.dgq.pad
channel_ranges = torch.ops.dgq.channel_ranges
int_linear = torch.ops.dgq.int_linear
int_linear_gated = torch.ops.dgq.int_linear_gated
unpack = torch.ops.dgq.unpack
int_conv2d = torch.ops.dgq.int_conv2d
int_conv2d_packed = torch.ops.dgq.int_conv2d_packed
conv2d_packed = torch.ops.dgq.conv2d_packed
attention = torch.ops.dgq.attention

NAMES = (
    *("quantize", "quantize_gated", "pad", "channel_ranges", "int_linear", "int_linear_gated"),
    *("unpack", "int_conv2d", "int_conv2d_packed", "conv2d_packed", "attention"),
)

for _name in NAMES:
    LIBRARY.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")


@torch.library.register_fake("dgq::quantize", lib=LIBRARY)
def _quantize_shape(
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
    return x.new_empty(reference.padded_shape(x, padding), dtype=reference.code_dtype(offset))


@torch.library.register_fake("dgq::quantize_gated", lib=LIBRARY)
def _quantize_gated_shape(
    x: Tensor,
    scale: Tensor,
    multiple: Tensor,
    zero_point: Tensor,
    factor: Tensor,
    step: Tensor,
    largest: int,
    offset: int | None = None,
) -> Tensor:
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    return x.new_empty(shape, dtype=reference.code_dtype(offset))


@torch.library.register_fake("dgq::pad", lib=LIBRARY)
def _pad_shape(codes: Tensor, of_zero: Tensor, padding: list[int]) -> Tensor:
    return codes.new_empty(reference.padded_shape(codes, padding))


@torch.library.register_fake("dgq::channel_ranges", lib=LIBRARY)
def _channel_ranges_shape(x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], x.shape[-1])
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.float32)


@torch.library.register_fake("dgq::int_linear", lib=LIBRARY)
def _int_linear_shape(
    codes: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bias: Tensor,
    step: Tensor,
    dtype: torch.dtype,
    residual: Tensor | None = None,
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], weight_scale.shape[0]), dtype=dtype)


@torch.library.register_fake("dgq::int_linear_gated", lib=LIBRARY)
def _int_linear_gated_shape(
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
    shape = (*codes.shape[:-1], multiple.shape[0])
    return codes.new_empty(shape, dtype=reference.code_dtype(offset))


@torch.library.register_fake("dgq::unpack", lib=LIBRARY)
def _unpack_shape(
    packed: Tensor,
    zero_point: Tensor,
    factor: Tensor | None,
    shift: Tensor | None,
    group_size: int,
    channels: int,
) -> Tensor:
    return packed.new_empty((*packed.shape[:2], channels), dtype=torch.int8)


@torch.library.register_fake("dgq::int_conv2d", lib=LIBRARY)
def _int_conv2d_shape(
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
    size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
    return codes.new_empty((*size, weight_scale.shape[0]), dtype=dtype)


@torch.library.register_fake("dgq::int_conv2d_packed", lib=LIBRARY)
def _int_conv2d_packed_shape(
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
    size = convolved(codes.shape, kernel, stride, [0, 0], dilation)
    return codes.new_empty((*size, weight_scale.shape[0]), dtype=dtype)


@torch.library.register_fake("dgq::conv2d_packed", lib=LIBRARY)
def _conv2d_packed_shape(
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
    size = convolved(x.shape, kernel, stride, padding, dilation)
    return x.new_empty((*size, weight_scale.shape[0]))


def convolved(
    shape: Sequence[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[int, ...]:
    """Batch, height and width of a convolution's output, from ``[batch, height, width, ...]``.

    A linear layer's may have any number of dimensions, which it keeps.
    """
    if len(shape) != reference.IMAGE:
        return tuple(shape[:-1])
    sizes = zip(shape[1:3], kernel, stride, padding, dilation, strict=True)
    return shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)


@torch.library.register_fake("dgq::attention", lib=LIBRARY)
def _attention_shape(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    return query.new_empty((*query.shape[:-1], value.shape[-1]))
