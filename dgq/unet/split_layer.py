"""A convolution of a concatenated input, as the sum of two convolutions of its parts.

    W [a, b] = W_1 a + W_2 b

Both are layers like any other: quantized, learned, packed and run separately, so that each part of
the input has its own ranges, and each part of the weight its own scales (Q-Diffusion,
arXiv 2302.04304, section 4.3).
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.unet.geometry import ConvGeometry, HasGeometry, geometry_of, stock_layer
from dgq.unet.stock_state import of_part

PARTS = ("first", "second")


class SplitConv2d(HasGeometry, nn.Module):
    """``first`` of the leading input channels plus ``second`` of the rest.

    Args:
        geometry: geometry of the whole convolution.
        first: convolution with the bias.
        second: convolution without a bias.
    """

    geometry: ConvGeometry

    def __init__(self, geometry: ConvGeometry, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.geometry = geometry
        self.first = first
        self.second = second
        self.register_state_dict_post_hook(joined_in_part)  # type: ignore[no-untyped-call]

    @property
    def sizes(self) -> tuple[int, int]:
        """Input channels of the two parts."""
        leading: int = cast(Any, self.first).in_channels
        return leading, self.in_channels - leading

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in, height, width] -> [batch, out, height, width]``."""
        leading, others = x.split(self.sizes, dim=1)
        output: Tensor = self.first(leading) + self.second(others)
        return output


def split_(unet: nn.Module, leading: Mapping[str, int]) -> None:
    """Replace convolutions of a stock UNet by sums of two.

    Args:
        unet: a stock UNet; its parameters may be on the meta device.
        leading: input channels of the first part, by the name of the convolution.

    Raises:
        DGQError: if a name is not a convolution, or a number leaves a part empty; then nothing is
            changed.
    """
    for name, channels in leading.items():
        check_split(unet, name, channels)
    for name, channels in leading.items():
        stock = unet.get_submodule(name)
        assert isinstance(stock, nn.Conv2d)
        unet.set_submodule(name, split_layer(stock, channels, name))


def names_of_parts(names: Iterable[str], split: Container[str]) -> list[str]:
    """Names of layers, with both parts in place of each split layer."""
    parts = ([f"{n}.{part}" for part in PARTS] if n in split else [n] for n in names)
    return [name for both in parts for name in both]


def check_split(unet: nn.Module, name: str, channels: int) -> None:
    """Raise DGQError unless a convolution can be split at this channel."""
    try:
        stock = unet.get_submodule(name)
    except AttributeError:
        stock = None
    if not isinstance(stock, nn.Conv2d) or stock.groups != 1:
        raise DGQError(f"split: {name} is not a convolution of this UNet that could be split")
    if not 0 < channels < stock.in_channels:
        raise DGQError(
            f"split: {name} reads {stock.in_channels} channels, of which the first part cannot "
            f"have {channels}"
        )


def split_layer(stock: nn.Conv2d, channels: int, name: str) -> SplitConv2d:
    """Split one convolution into an equal sum of two.

    Args:
        stock: the convolution.
        channels: input channels of the first part.
        name: for errors.
    """
    geometry = geometry_of(stock, name)
    assert isinstance(geometry, ConvGeometry)
    leading, others = (part.clone() for part in stock.weight.detach().tensor_split([channels], 1))
    parts = (with_weight(geometry, leading, stock), with_weight(geometry, others, None))
    return SplitConv2d(geometry, *parts).train(stock.training)


def with_weight(geometry: ConvGeometry, weight: Tensor, like: nn.Module | None) -> nn.Conv2d:
    """A stock convolution with this weight, and the bias of another one if given."""
    bias = None if like is None else cast(nn.Parameter | None, like.bias)
    made = stock_layer(replace(geometry, in_channels=weight.shape[1]), bias is not None)
    assert isinstance(made, nn.Conv2d)
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = bias
    return made


def join_(unet: nn.Module) -> None:
    """Undo ``split_``, for parts that are stock convolutions (again)."""
    names = [name for name, module in unet.named_modules() if isinstance(module, SplitConv2d)]
    for name in names:
        unet.set_submodule(name, joined_layer(cast(SplitConv2d, unet.get_submodule(name))))


def joined_layer(split: SplitConv2d) -> nn.Conv2d:
    """The whole convolution of two stock parts."""
    first, second = cast(nn.Conv2d, split.first), cast(nn.Conv2d, split.second)
    weight = torch.cat([first.weight.detach(), second.weight.detach()], dim=1)
    return with_weight(split.geometry, weight, first).train(split.training)


def joined_in_part(_module: nn.Module, state: dict[str, Any], prefix: str, _local: Any) -> None:
    """Make the state dict of a part of a UNet hold one weight, as that of a stock part does."""
    if of_part(prefix) and f"{prefix}first.weight" in state:
        join_tensors_(state, prefix)


def join_tensors_(tensors: dict[str, Tensor], prefix: str) -> None:
    """Replace the weights and bias of both parts by those of the whole convolution.

    Args:
        tensors: tensors by name.
        prefix: name of the convolution and a dot.
    """
    weights = [tensors.pop(f"{prefix}{part}.weight") for part in PARTS]
    tensors[f"{prefix}weight"] = torch.cat(weights, dim=1)
    if f"{prefix}first.bias" in tensors:
        tensors[f"{prefix}bias"] = tensors.pop(f"{prefix}first.bias")
