"""Skips read off the structure against what a call of the UNet joins."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.overrides import TorchFunctionMode

from dgq.errors import DGQError
from dgq.pipelines.loading import load_unet
from dgq.unet.skips import channels_from_below
from tests.model_zoo import micro
from tests.tiny_pipelines import micro_unet, save_sd, save_sdxl
from tests.unet_zoo import unet_call


class Joins(TorchFunctionMode):
    """Notes what ``torch.cat`` joins along the channels of images."""

    def __init__(self) -> None:
        super().__init__()
        self.leading: dict[int, int] = {}
        self.alive: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.cat and result.ndim == 4:
            self.leading[id(result)] = args[0][0].shape[1]
            self.alive.append(result)
        return result


@contextmanager
def inputs_of_resnets(unet: nn.Module, joins: Joins, found: dict[str, int]) -> Iterator[None]:
    """Notes which resnets read a joined tensor."""

    def note(_module: nn.Module, args: tuple[Any, ...], name: str) -> None:
        if id(args[0]) in joins.leading:
            found[name] = joins.leading[id(args[0])]

    hooks = [
        module.register_forward_pre_hook(partial(note, name=name))
        for name, module in unet.named_modules()
        if isinstance(module, ResnetBlock2D)
    ]
    yield
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def observed(unet: UNet2DConditionModel) -> dict[str, int]:
    """Channels before the skip of each resnet that reads one, from a call."""
    joins, found, call = Joins(), {}, unet_call(unet, 1, 401.0, 0)
    if "added_cond_kwargs" in call:
        of_ids = 6 * unet.config["addition_time_embed_dim"]
        width = unet.config["projection_class_embeddings_input_dim"] - of_ids
        call["added_cond_kwargs"]["text_embeds"] = torch.zeros(1, width)
    with inputs_of_resnets(unet, joins, found), joins:
        unet(**call)
    return found


BK_SDM = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
}
UNETS = {
    "micro": micro_unet,
    "BK-SDM's small one, without a middle": lambda: micro(mid_block_type=None, **BK_SDM),
    "three widths, two resnets down": lambda: micro(
        block_out_channels=(8, 16, 24),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    "attention blocks": lambda: micro(
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "resnets as samplers": lambda: micro(
        down_block_types=("ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
}


@pytest.mark.parametrize("kind", UNETS)
def test_the_structure_says_what_a_call_joins(kind: str) -> None:
    unet = UNETS[kind]()
    found = channels_from_below(unet)
    assert found == observed(unet)
    assert found


@pytest.mark.parametrize("name", ["scenes", "scenes-xl", "scenes-few-step"])
def test_embedded_models(name: str) -> None:
    unet = load_unet(name)
    assert channels_from_below(unet) == observed(unet)


@pytest.mark.parametrize("save", [save_sd, save_sdxl])
def test_the_structures_of_sd_and_sdxl(save: Any, tmp_path: Any) -> None:
    unet = load_unet(str(save(tmp_path)))
    assert channels_from_below(unet) == observed(unet)


def test_stable_diffusion_itself() -> None:
    """SD 1.4's own sizes, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    found = channels_from_below(unet)
    assert list(found.values()) == [1280] * 7 + [640, 640, 640, 320, 320]
    assert found["up_blocks.3.resnets.0"] == 640


def test_other_joins_are_refused() -> None:
    unet = micro_unet()
    unet.get_submodule("up_blocks.0.resnets.1").in_channels += 1
    with pytest.raises(DGQError, match=r"up_blocks.0.resnets.1 reads .* expected"):
        channels_from_below(unet)
