"""What ``torch.utils.flop_counter`` counts for our operators: as much as for the stock layers."""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from dgq.ops import library

Shape = Sequence[int]


def linear(codes: Shape, weight: Shape, weight_scale: Shape, *_: Any, **__: Any) -> int:
    """Of ``[..., in]`` to as many outputs as the weight has scales."""
    return 2 * prod(codes) * weight_scale[0]


def conv2d(
    codes: Shape,
    weight: Shape,
    weight_scale: Shape,
    scale: Shape,
    bias: Shape,
    step: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *_: Any,
    out_shape: Shape,
    **__: Any,
) -> int:
    """Of an image ``[batch, height, width, channels]``, or of the input of a linear layer."""
    return _of_windows(out_shape, kernel, codes[-1] // groups)


def int_conv2d_packed(
    codes: Shape,
    packed: Shape,
    zero_point: Shape,
    factor: Shape | None,
    shift: Shape | None,
    group_size: int,
    weight_scale: Shape,
    *rest: Any,
    out_shape: Shape,
    **named: Any,
) -> int:
    """As ``conv2d``."""
    return conv2d(codes, packed, weight_scale, *rest, out_shape=out_shape, **named)


def conv2d_packed(
    x: Shape,
    packed: Shape,
    zero_point: Shape,
    shift: Shape | None,
    group_size: int,
    weight_scale: Shape,
    bias: Shape,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    out_shape: Shape,
) -> int:
    """As ``conv2d``."""
    return _of_windows(out_shape, kernel, x[-1] // groups)


def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Of both products with ``[batch, tokens, heads * dimension]``."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _of_windows(out_shape: Shape, kernel: Sequence[int], channels: int) -> int:
    return 2 * prod(out_shape) * prod(kernel) * channels


def register() -> None:
    """Register the formulas with torch."""
    register_flop_formula([library.int_linear, library.int_linear_gated])(linear)
    register_flop_formula(library.int_conv2d)(conv2d)
    register_flop_formula(library.int_conv2d_packed)(int_conv2d_packed)
    register_flop_formula(library.conv2d_packed)(conv2d_packed)
    register_flop_formula(library.attention)(attention)
