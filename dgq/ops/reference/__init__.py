"""The operators in plain torch: for any device, and wherever nothing is faster."""

from dgq.ops.reference.products import (
    IMAGE,
    conv2d_packed,
    dense,
    int_conv2d,
    int_conv2d_packed,
    int_linear,
    int_linear_gated,
    scaled,
    with_residual,
)
from dgq.ops.reference.quantization import (
    channel_ranges,
    code_dtype,
    pad,
    padded_shape,
    quantize,
    quantize_gated,
)
from dgq.ops.reference.rounding import rounding_penalty, soft_weight, soft_weight_gradients
from dgq.ops.reference.softmax_attention import attention
from dgq.ops.reference.unpacking import unpack, unpack_all

__all__ = [
    "IMAGE",
    "attention",
    "channel_ranges",
    "code_dtype",
    "conv2d_packed",
    "dense",
    "int_conv2d",
    "int_conv2d_packed",
    "int_linear",
    "int_linear_gated",
    "pad",
    "padded_shape",
    "quantize",
    "quantize_gated",
    "rounding_penalty",
    "scaled",
    "soft_weight",
    "soft_weight_gradients",
    "unpack",
    "unpack_all",
    "with_residual",
]
