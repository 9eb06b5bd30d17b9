"""Targets: how many, of what kind, in which order, and that they hold every quantized layer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D

from dgq.pipelines.loading import load_unet
from dgq.targets import execution_order, find_blocks
from dgq.unet.quantize import layers_to_quantize
from tests.tiny_pipelines import micro_unet, unet_call

KEEP = ("conv_in", "conv_out")


def real_sd() -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def real_sdxl() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


@pytest.mark.parametrize(
    ("make", "resnets", "transformers", "lone"),
    [(real_sd, 22, 16, 40), (real_sdxl, 17, 70, 30)],
)
def test_the_real_structures_have_as_many_targets_as_known(
    make: Callable[[], UNet2DConditionModel],
    resnets: int,
    transformers: int,
    lone: int,
) -> None:
    with torch.device("meta"):
        targets = [t.entrance for t in find_blocks(make(), KEEP).values()]
    assert sum(isinstance(t, ResnetBlock2D) for t in targets) == resnets
    assert sum(isinstance(t, BasicTransformerBlock) for t in targets) == transformers
    assert len(targets) == resnets + transformers + lone


def test_conv_in_and_conv_out_are_targets_unless_kept() -> None:
    with torch.device("meta"):
        assert len(find_blocks(real_sd(), ())) == 80
        assert len(find_blocks(real_sdxl(), ())) == 119


def test_every_quantized_layer_lies_in_exactly_one_target() -> None:
    unet = micro_unet()
    targets = find_blocks(unet, KEEP)
    for name in layers_to_quantize(unet, KEEP):
        layer = unet.get_submodule(name)
        assert sum(any(m is layer for m in target.parts()) for target in targets.values()) == 1


def test_a_block_of_which_nothing_is_quantized_is_no_target() -> None:
    unet = micro_unet()
    targets = find_blocks(unet, (*KEEP, "mid_block.resnets.0.*"))
    assert "mid_block.resnets.0" not in targets
    assert "mid_block.resnets.1" in targets


@pytest.mark.parametrize(("fixture", "n"), [("sd_folder", 78), ("sdxl_folder", 75)])
def test_execution_order_follows_the_network(
    fixture: str, n: int, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    unet = load_unet(str(folder))
    targets = find_blocks(unet, KEEP)
    order = execution_order(unet, targets, unet_call(unet, 1, 1.0))
    assert len(order) == len(set(order)) == len(targets) == n
    assert set(order) == set(targets)
    assert order[:2] == ["time_embedding.linear_1", "time_embedding.linear_2"]
    rooms = [name.split("_")[0] for name in order if name.startswith(("down", "mid", "up"))]
    assert rooms == sorted(rooms, key=["down", "mid", "up"].index)
    # Registration has all attentions of a level before its resnets; execution alternates.
    level = [name.removeprefix("down_blocks.1.") for name in order]
    assert level.index("resnets.0") < level.index("attentions.0.proj_in")
    assert level.index("attentions.0.proj_out") < level.index("resnets.1")


def test_hooks_are_removed_when_the_call_fails() -> None:
    unet = micro_unet()
    targets = find_blocks(unet, KEEP)
    with pytest.raises(TypeError):
        execution_order(unet, targets, {"sample": torch.zeros(1, 4, 8, 8)})
    assert not any(target.entrance._forward_pre_hooks for target in targets.values())
