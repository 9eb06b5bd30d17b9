"""Operators of a quantized UNet, ``torch.ops.dgq``: a reference, and a file per device."""

from dgq.ops import cpu, flops, gpu, native, shapes
from dgq.ops.library import (
    attention,
    channel_ranges,
    conv2d_packed,
    int_conv2d,
    int_conv2d_packed,
    int_linear,
    int_linear_gated,
    pad,
    quantize,
    quantize_gated,
    rounding_penalty,
    soft_weight,
    soft_weight_gradients,
    unpack,
    unpack_all,
)

native.register()
shapes.register()
flops.register()
cpu.register()
gpu.register()

__all__ = [
    "attention",
    "channel_ranges",
    "conv2d_packed",
    "int_conv2d",
    "int_conv2d_packed",
    "int_linear",
    "int_linear_gated",
    "pad",
    "quantize",
    "quantize_gated",
    "rounding_penalty",
    "soft_weight",
    "soft_weight_gradients",
    "unpack",
    "unpack_all",
]
