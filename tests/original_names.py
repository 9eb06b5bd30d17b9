"""Tiny pipelines under the tensor names of the original code, as single files have them."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from torch import Tensor, nn


def to_original_names(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    """A pipeline's tensors under the names of the original code.

    For Stable Diffusion 1.x and SDXL with a UNet of two levels with one layer each, and any VAE.
    """
    unet = pipeline.unet.state_dict()
    names = original_unet_names(pipeline.unet)
    tensors = {f"model.diffusion_model.{names[name]}": value for name, value in unet.items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in original_vae(pipeline.vae).items()}
    second = pipeline.components.get("text_encoder_2")
    first = "conditioner.embedders.0.transformer" if second else "cond_stage_model.transformer"
    tensors |= {f"{first}.text_model.{k}": v for k, v in text_tensors(pipeline.text_encoder)}
    if second:
        found = original_open_clip(second).items()
        tensors |= {f"conditioner.embedders.1.model.{k}": v for k, v in found}
    return {name: value.contiguous() for name, value in tensors.items()}


def text_tensors(encoder: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A text encoder's tensors by their names within its text model."""
    for name, value in encoder.state_dict().items():
        yield name.removeprefix("text_model."), value


OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


def original_open_clip(encoder: nn.Module) -> dict[str, Tensor]:
    """The second text encoder's tensors under OpenCLIP's names: q, k and v are one matrix."""
    own = dict(text_tensors(encoder))
    found = {"text_projection": own.pop("text_projection.weight").T}
    for name, value in own.items():
        new = name
        for ours, theirs in OPEN_CLIP.items():
            new = new.replace(ours, theirs)
        if "q_proj" in name:
            parts = [own[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[new.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif "k_proj" not in name and "v_proj" not in name:
            found[new] = value
    return found


def original_unet_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """For two levels with one layer each (``MICRO``): the original name of each tensor's."""
    parts = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "down_blocks.1.attentions.0": "input_blocks.3.1",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.attentions.0": "output_blocks.0.1",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.attentions.1": "output_blocks.1.1",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
    }
    return {name: _renamed(name, parts, RESNET) for name in unet.state_dict()}


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _renamed(name: str, parts: Mapping[str, str], inside: Mapping[str, str]) -> str:
    place = max((p for p in parts if name.startswith(p + ".")), key=len)
    head, _, tail = name.removeprefix(place + ".").partition(".")
    rest = f"{inside.get(head, head)}.{tail}" if tail else head
    return f"{parts[place]}.{rest}"


def original_vae(vae: Any) -> dict[str, Tensor]:
    """The VAE's tensors under their original names, by trying which name becomes which."""
    own = vae.state_dict()
    levels = len(vae.config["block_out_channels"])
    found = {}
    for name, tensor in own.items():
        new = name
        for i in range(levels):
            new = new.replace(f"encoder.down_blocks.{i}.resnets.", f"encoder.down.{i}.block.")
            new = new.replace(
                f"encoder.down_blocks.{i}.downsamplers.0.", f"encoder.down.{i}.downsample."
            )
            up = levels - 1 - i
            new = new.replace(f"decoder.up_blocks.{i}.resnets.", f"decoder.up.{up}.block.")
            new = new.replace(f"decoder.up_blocks.{i}.upsamplers.0.", f"decoder.up.{up}.upsample.")
        for i in (0, 1):
            new = new.replace(f"mid_block.resnets.{i}.", f"mid.block_{i + 1}.")
        new = new.replace("mid_block.attentions.0.", "mid.attn_1.").replace(
            "conv_shortcut", "nin_shortcut"
        )
        for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
            new = new.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
        new = new.replace("attn_1.to_out.0.", "attn_1.proj_out.")
        new = new.replace("conv_norm_out", "norm_out")
        if "attn_1" in new and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        found[new] = tensor
    back = single_file_utils.convert_ldm_vae_checkpoint(
        {f"first_stage_model.{k}": v for k, v in found.items()}, vae.config
    )
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in own.items()}
    return found
