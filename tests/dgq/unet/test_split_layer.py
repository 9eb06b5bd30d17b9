"""A convolution as the sum of two: what it computes, holds, and becomes again."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dgq.errors import DGQError
from dgq.unet.skips import channels_from_below
from dgq.unet.split_layer import SplitConv2d, join_, split_, split_layer
from tests.tiny_pipelines import micro_unet, unet_call

NAME = "up_blocks.0.resnets.0.conv1"


def every_split(unet: nn.Module) -> dict[str, int]:
    """Both convolutions of every resnet that reads a skip."""
    found = channels_from_below(unet)
    return {f"{n}.{leaf}": c for n, c in found.items() for leaf in ("conv1", "conv_shortcut")}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_sum_is_the_convolution(kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    stock = nn.Conv2d(7, 4, kernel, padding=kernel // 2, stride=2, bias=bias).double()
    split = split_layer(stock, 3, "it")
    x = torch.randn(2, 7, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(split(x), stock(x))
    assert split.sizes == (3, 4)
    assert split.geometry.weight_shape == tuple(stock.weight.shape)
    assert split.first.bias is stock.bias
    assert split.second.bias is None


@torch.no_grad()
def test_a_unet_computes_the_same_and_becomes_itself_again() -> None:
    unet = micro_unet()
    split = copy.deepcopy(unet)
    split_(split, every_split(split))
    n_split = sum(isinstance(module, SplitConv2d) for module in split.modules())
    assert n_split == len(every_split(unet)) == 8
    call = unet_call(unet, 2, 401.0)
    torch.testing.assert_close(split(**call)[0], unet(**call)[0], atol=1e-5, rtol=1e-5)
    join_(split)
    assert [type(m) for m in split.modules()] == [type(m) for m in unet.modules()]
    for (name, a), b in zip(unet.named_parameters(), split.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_without_memory() -> None:
    with torch.device("meta"):
        unet = micro_unet()
    split_(unet, every_split(unet))
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    assert unet.get_submodule(f"{NAME}.first").weight.shape[1] == 16


def test_the_state_of_a_part_is_that_of_a_stock_one() -> None:
    unet = micro_unet()
    split = copy.deepcopy(unet)
    split_(split, every_split(split))
    stock, found = unet.up_blocks.state_dict(), split.up_blocks.state_dict()
    assert found.keys() == stock.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in stock.items())


@pytest.mark.parametrize(
    ("leading", "message"),
    [
        ({NAME: 0}, "cannot have 0"),
        ({NAME: 32}, "reads 32 channels"),
        ({"time_embedding.linear_1": 2}, "is not a convolution"),
        ({NAME: 16, "nowhere": 2}, "nowhere is not a convolution"),
    ],
)
def test_what_cannot_be_split_is_refused_before_anything_changes(
    leading: dict[str, Any], message: str
) -> None:
    unet = micro_unet()
    with pytest.raises(DGQError, match=message):
        split_(unet, leading)
    assert not any(isinstance(module, SplitConv2d) for module in unet.modules())
