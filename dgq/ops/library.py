"""The schemas of the operators.

Compiled and exported graphs contain them unchanged. Each has a meta kernel (``shapes.py``), a
reference that runs on any device, and fast implementations in a file per device, which
``torch.library`` dispatches to.

The arithmetic of both products, for the codes of a sample at sampler step ``t``::

    output = scale[t] * weight_scale * sum(codes * weight) + bias[t]

Zero points do not appear: their contribution is known beforehand and part of ``bias``.
"""

import torch

LIBRARY = torch.library.Library("dgq", "DEF")

SCHEMAS = {
    "quantize": "(Tensor x, Tensor scale, Tensor multiple, Tensor zero_point, Tensor factor, "
    "Tensor step, int largest, int[] padding, int? offset=None) -> Tensor",
    "quantize_gated": "(Tensor x, Tensor scale, Tensor multiple, Tensor zero_point, Tensor factor, "
    "Tensor step, int largest, int? offset=None) -> Tensor",
    "pad": "(Tensor codes, Tensor zero_point, Tensor factor, Tensor step, int largest, int[] "
    "padding, int? offset=None) -> Tensor",
    "channel_ranges": "(Tensor x) -> (Tensor, Tensor)",
    "int_linear": "(Tensor codes, Tensor weight, Tensor weight_scale, Tensor scale, Tensor bias, "
    "Tensor step, ScalarType dtype, Tensor? residual=None) -> Tensor",
    "int_linear_gated": "(Tensor codes, Tensor weight, Tensor weight_scale, Tensor scale, Tensor "
    "bias, Tensor step, Tensor next_scale, Tensor multiple, Tensor zero_point, Tensor factor, int "
    "largest, int? offset=None) -> Tensor",
    "unpack": "(Tensor packed, Tensor zero_point, Tensor? factor, Tensor? shift, int group_size, "
    "int channels) -> Tensor",
    "unpack_all": "(Tensor codes, Tensor zero_point, Tensor? factor, Tensor? shift, Tensor layers, "
    "Tensor programs, int group_size, int n_bytes) -> Tensor",
    "int_conv2d": "(Tensor codes, Tensor weight, Tensor weight_scale, Tensor scale, Tensor bias, "
    "Tensor step, int[] kernel, int[] stride, int[] dilation, int groups, ScalarType dtype, "
    "Tensor? residual=None) -> Tensor",
    "int_conv2d_packed": "(Tensor codes, Tensor packed, Tensor zero_point, Tensor? factor, Tensor? "
    "shift, int group_size, Tensor weight_scale, Tensor scale, Tensor bias, Tensor step, int[] "
    "kernel, int[] stride, int[] dilation, int groups, ScalarType dtype, Tensor? residual=None) -> "
    "Tensor",
    "conv2d_packed": "(Tensor x, Tensor packed, Tensor zero_point, Tensor? shift, int group_size, "
    "Tensor weight_scale, Tensor bias, int[] kernel, int[] stride, int[] padding, int[] dilation, "
    "int groups) -> Tensor",
    "soft_weight": "(Tensor logits, Tensor floor, Tensor zero_point, Tensor scale, Tensor? factor, "
    "int largest) -> Tensor",
    "soft_weight_gradients": "(Tensor gradient, Tensor logits, Tensor floor, Tensor zero_point, "
    "Tensor scale, Tensor? factor, int largest) -> (Tensor, Tensor)",
    "rounding_penalty": "(Tensor logits, float temperature) -> (Tensor, Tensor)",
    "attention": "(Tensor query, Tensor key, Tensor value, int heads, float scale) -> Tensor",
}

for _name, _schema in SCHEMAS.items():
    LIBRARY.define(_name + _schema)

quantize = torch.ops.dgq.quantize
quantize_gated = torch.ops.dgq.quantize_gated
pad = torch.ops.dgq.pad
channel_ranges = torch.ops.dgq.channel_ranges
int_linear = torch.ops.dgq.int_linear
int_linear_gated = torch.ops.dgq.int_linear_gated
unpack = torch.ops.dgq.unpack
unpack_all = torch.ops.dgq.unpack_all
int_conv2d = torch.ops.dgq.int_conv2d
int_conv2d_packed = torch.ops.dgq.int_conv2d_packed
conv2d_packed = torch.ops.dgq.conv2d_packed
attention = torch.ops.dgq.attention
soft_weight = torch.ops.dgq.soft_weight
soft_weight_gradients = torch.ops.dgq.soft_weight_gradients
rounding_penalty = torch.ops.dgq.rounding_penalty
