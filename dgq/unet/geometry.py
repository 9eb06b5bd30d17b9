"""What a linear or convolution layer is, apart from its weight."""

from dataclasses import dataclass
from math import prod
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.unet.readers import Reader


@dataclass(frozen=True)
class LinearGeometry:
    """A linear layer.

    Args:
        in_channels: features of the input.
        out_channels: features of the output.
    """

    in_channels: int
    out_channels: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(out, in)``."""
        return (self.out_channels, self.in_channels)

    @property
    def pads(self) -> bool:
        """Whether zeros are added around the input."""
        return False

    @property
    def groups(self) -> int:
        """One: every output reads all features."""
        return 1

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``[..., in] -> [..., out]``."""
        return F.linear(x, weight, bias)


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution with zero padding; each pair is height, width.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: size.
        stride: of the output's pixels.
        padding: pixels added on each side.
        dilation: of the kernel.
        groups: of channels.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``(out, in / groups, height, width)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def pads(self) -> bool:
        """Whether zeros are added around the input."""
        return any(self.padding)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``[batch, in, height, width] -> [batch, out, height, width]``."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


Geometry = LinearGeometry | ConvGeometry


class HasGeometry(Reader):
    """Sizes of a layer under the names that stock layers have, which pipelines read."""

    geometry: Geometry

    @property
    def fan_in(self) -> int:
        """Weights of one output channel."""
        return prod(self.geometry.weight_shape[1:])

    @property
    def in_features(self) -> int:
        """Channels of the input."""
        return self.geometry.in_channels

    @property
    def out_features(self) -> int:
        """Channels of the output."""
        return self.geometry.out_channels

    in_channels, out_channels = in_features, out_features

    @property
    def groups(self) -> int:
        """Groups of channels of a convolution; a linear layer is one."""
        return self.geometry.groups


def geometry_of(layer: nn.Linear | nn.Conv2d, name: str) -> Geometry:
    """The geometry of a stock layer.

    Raises:
        DGQError: for a convolution that does not pad with a fixed number of zeros.
    """
    if isinstance(layer, nn.Linear):
        return LinearGeometry(layer.in_features, layer.out_features)
    if layer.padding_mode != "zeros" or layer.padding == "same":
        raise DGQError(f"{name} pads by {layer.padding_mode}, {layer.padding}: expected zeros")
    pair = (0, 0) if layer.padding == "valid" else layer.padding
    return ConvGeometry(
        layer.in_channels,
        layer.out_channels,
        cast(tuple[int, int], layer.kernel_size),
        cast(tuple[int, int], layer.stride),
        cast(tuple[int, int], pair),
        cast(tuple[int, int], layer.dilation),
        layer.groups,
    )


def stock_layer(geometry: Geometry, has_bias: bool = True) -> nn.Linear | nn.Conv2d:
    """The stock layer of a geometry, on the meta device, where it takes no memory."""
    if not isinstance(geometry, ConvGeometry):
        sizes = geometry.in_channels, geometry.out_channels
        return nn.Linear(*sizes, bias=has_bias, device="meta")
    return nn.Conv2d(
        *(geometry.in_channels, geometry.out_channels, geometry.kernel, geometry.stride),
        *(geometry.padding, geometry.dilation, geometry.groups, has_bias),
        device="meta",
    )
