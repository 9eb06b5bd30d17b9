"""The UNet for ComfyUI: int8 weights that stand for ours, under LDM's names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from dgq import DGQError, load_pipeline, load_quantized_unet
from dgq.export.comfyui import comfyui_tensors
from dgq.export.export import export
from dgq.export.ldm_names import ldm_name, ldm_prefixes
from dgq.inference.layers import PackedLayer
from dgq.pipelines.single_files import UNET_PREFIX
from dgq.unet.geometry import LinearGeometry
from tests.exported_models import exported_model

EXTRA = (".weight_scale", ".comfy_quant")


def as_diffusers_reads_it(ldm: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    return dict(convert_ldm_unet_checkpoint(dict(ldm), dict(config)))


@pytest.mark.parametrize("kind", ["sd", "xl", "scenes", "scenes-xl"])
def test_diffusers_own_conversion_is_the_inverse(kind: str, request: Any) -> None:
    folders = {"sd": "sd_folder", "xl": "sdxl_folder"}
    source = str(request.getfixturevalue(folders[kind])) if kind in folders else kind
    unet: UNet2DConditionModel = load_pipeline(source).unet
    state, prefixes = unet.state_dict(), ldm_prefixes(unet.config)
    named = {ldm_name(name, prefixes): tensor for name, tensor in state.items()}
    assert len(named) == len(state)
    assert all(name.startswith(UNET_PREFIX) for name in named)
    back = as_diffusers_reads_it(named, unet.config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_well_known_names() -> None:
    """Of Stable Diffusion 1's own file."""
    config = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8), cross_attention_dim=8, attention_head_dim=2,
        norm_num_groups=2,
    ).config  # fmt: skip
    prefixes = ldm_prefixes(config)
    for ours, theirs in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "down_blocks.0.resnets.1.conv2.weight": "input_blocks.2.0.out_layers.3.weight",
        "down_blocks.1.downsamplers.0.conv.bias": "input_blocks.6.0.op.bias",
        "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight": (
            "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
        "mid_block.resnets.1.time_emb_proj.weight": "middle_block.2.emb_layers.1.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.bias": "output_blocks.11.0.skip_connection.bias",
        "conv_norm_out.weight": "out.0.weight",
    }.items():
        assert ldm_name(ours, prefixes) == UNET_PREFIX + theirs
    with pytest.raises(DGQError, match="no place for class_embedding"):
        ldm_name("class_embedding.weight", prefixes)


@pytest.mark.parametrize("name", ["w4a8", "w8a8"])
def test_int8_weights_stand_for_the_quantized_ones(name: str, tmp_path: Path) -> None:
    made = export(exported_model(name).folder, "comfyui", tmp_path / "out")
    found = load_file(tmp_path / "out" / "unet.safetensors")
    unet = load_quantized_unet(exported_model(name).folder, "float", torch.float32)
    prefixes = ldm_prefixes(unet.config)
    n_linear = 0
    for path, layer in unet.named_modules():
        if not isinstance(layer, PackedLayer):
            continue
        weight, _ = layer.operands()
        key = ldm_name(f"{path}.weight", prefixes).removesuffix(".weight")
        if not isinstance(layer.geometry, LinearGeometry):
            assert torch.equal(found[f"{key}.weight"], weight.half())
            assert f"{key}.weight_scale" not in found
            continue
        n_linear += 1
        codes, scale = found[f"{key}.weight"], found[f"{key}.weight_scale"]
        assert codes.dtype == torch.int8
        assert scale.shape == (layer.out_channels, 1)
        torch.testing.assert_close(codes * scale, weight, rtol=1e-6, atol=0)
        marker = json.loads(bytes(found[f"{key}.comfy_quant"].tolist()))
        assert marker == {"format": "int8_tensorwise"}
    assert n_linear > 30
    assert made.layers.startswith(f"{n_linear} linear layers in int8")
    names = {n for n in found if not n.endswith(EXTRA)}
    back = as_diffusers_reads_it({n: found[n] for n in names}, unet.config)
    stock = UNet2DConditionModel.from_config(unet.config).state_dict()
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in stock.items()}


@torch.no_grad()
def test_weights_off_the_grid_of_int8_are_rounded(calibrated_as: Any) -> None:
    """8-bit weights with zero points have codes from -255 to 255."""
    unet = load_quantized_unet(exported_model("w8a8").folder, "float")
    layer = unet.get_submodule("mid_block.resnets.0.time_emb_proj")
    layer.zero_point.fill_(20.0)
    tensors = comfyui_tensors(unet)
    name = ldm_name("mid_block.resnets.0.time_emb_proj.weight", ldm_prefixes(unet.config))
    weight, _ = layer.operands()
    error = (tensors[name] * tensors[f"{name}_scale"] - weight).abs()
    assert bool((error > 0).any())
    assert bool((error <= weight.abs().amax(1, keepdim=True) / 254 * 1.001).all())


def test_a_unet_that_the_original_layout_cannot_hold_is_refused() -> None:
    config = UNet2DConditionModel(
        block_out_channels=(8, 8, 8, 8), layers_per_block=(1, 2, 2, 1), norm_num_groups=2,
        cross_attention_dim=8, attention_head_dim=2,
    ).config  # fmt: skip
    with pytest.raises(DGQError, match="blocks of different depth"):
        ldm_prefixes(config)
