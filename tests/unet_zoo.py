"""UNets with the features that configurations offer, and with what people do to a UNet."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.lora import LoRACompatibleConv
from torch import nn
from torch.nn.utils import parametrizations

from tests.model_zoo import MICRO, XL, micro
from tests.tiny_pipelines import TEXT_WIDTH

IMAGE: dict[str, Any] = {
    "addition_embed_type": "image",
    "encoder_hid_dim_type": "image_proj",
    "encoder_hid_dim": 12,
}
"""Conditioned on an image alone, as Kandinsky 2.2 is."""

IMAGE_WIDTH = 12

CALIBRATE: dict[str, dict[str, Any]] = {
    "linear projections": {"use_linear_projection": True},
    "`class_embed_type` timestep": {"class_embed_type": "timestep"},
    "`class_embed_type` projection": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": IMAGE_WIDTH,
    },
    "`class_embed_type` simple_projection, concatenated": {
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": IMAGE_WIDTH,
        "class_embeddings_concat": True,
    },
    "`num_class_embeds`": {"num_class_embeds": 5},
    "`addition_embed_type` text": {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
    },
    "`addition_embed_type` text_time": XL,
    "`addition_embed_type` text_image": {
        "addition_embed_type": "text_image",
        "cross_attention_dim": TEXT_WIDTH,
    },
    "`encoder_hid_dim_type` text_proj": {
        "encoder_hid_dim_type": "text_proj",
        "encoder_hid_dim": TEXT_WIDTH,
    },
    "`only_cross_attention`": {"only_cross_attention": True},
    "`mid_block_only_cross_attention`": {"mid_block_only_cross_attention": True},
    "`upcast_attention`": {"upcast_attention": True},
    "`resnet_time_scale_shift`": {"resnet_time_scale_shift": "scale_shift"},
    "`resnet_skip_time_act`, scaled output": {
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.4,
    },
    "Fourier time embedding": {"time_embedding_type": "fourier"},
    "`time_cond_proj_dim`": {"time_cond_proj_dim": IMAGE_WIDTH},
    "1x1 `conv_in`, `conv_out`": {"conv_in_kernel": 1, "conv_out_kernel": 1},
    "no middle block": {"mid_block_type": None},
    "attention with group norm and residual (`AttnDownBlock2D`)": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "no attention": {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "mid_block_type": "UNetMidBlock2D",
    },
}
"""Settings of UNets that calibrate."""


def unet_call(unet: UNet2DConditionModel, batch: int, timestep: float, seed: int) -> dict[str, Any]:
    """Random keyword arguments for a call of a UNet, with all that its configuration asks for."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    config = unet.config
    call: dict[str, Any] = {
        "sample": randn(config["in_channels"], 8, 8),
        "timestep": torch.full((batch,), timestep),
        "encoder_hidden_states": randn(77, config["cross_attention_dim"]),
        "return_dict": False,
    }
    added = {
        "text_time": {
            "text_embeds": randn(TEXT_WIDTH),
            "time_ids": torch.tensor([[8.0, 8.0, 0.0, 0.0, 8.0, 8.0]]).repeat(batch, 1),
        },
        "text_image": {"text_embeds": randn(TEXT_WIDTH), "image_embeds": randn(TEXT_WIDTH)},
        "image": {"image_embeds": randn(IMAGE_WIDTH)},
    }.get(config["addition_embed_type"])
    if added:
        call["added_cond_kwargs"] = added
    if config["class_embed_type"] == "timestep":
        call["class_labels"] = torch.arange(batch)
    elif config["class_embed_type"] is not None:
        call["class_labels"] = randn(IMAGE_WIDTH)
    elif config["num_class_embeds"]:
        call["class_labels"] = torch.arange(batch)
    if config["time_cond_proj_dim"]:
        call["timestep_cond"] = randn(IMAGE_WIDTH)
    return call


def no_text() -> UNet2DModel:
    """The UNet of DDPM's pipelines."""
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )


def changed(change: Callable[[UNet2DConditionModel], Any]) -> Callable[[], nn.Module]:
    """A micro UNet that something was done to."""

    def make() -> nn.Module:
        unet = micro()
        found = change(unet)
        return found if isinstance(found, nn.Module) else unet

    return make


def replaced(name: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    """A micro UNet with another module in the place of one."""
    return changed(lambda unet: unet.set_submodule(name, make(unet.get_submodule(name))) and None)


def with_ip_adapter(unet: UNet2DConditionModel) -> None:
    processors = unet.attn_processors
    name = next(n for n in processors if "attn2" in n)
    processors[name] = IPAdapterAttnProcessor2_0(16, TEXT_WIDTH)
    unet.set_attn_processor(processors)


def add_adapter(unet: UNet2DConditionModel) -> None:
    """Load a LoRA that changes what the UNet computes; skips the test where PEFT is missing."""
    peft = pytest.importorskip("peft")
    unet.add_adapter(peft.LoraConfig(target_modules=["to_q", "conv1"], init_lora_weights=False))


def inject_adapter(unet: UNet2DConditionModel) -> None:
    """Add a LoRA that diffusers knows nothing of; skips the test where PEFT is missing."""
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["to_q"]), unet)


def share(unet: UNet2DConditionModel) -> None:
    block = unet.mid_block
    block.resnets[1].conv2 = block.resnets[0].conv2


def circular(unet: UNet2DConditionModel) -> None:
    unet.mid_block.resnets[0].conv1.padding_mode = "circular"


class OwnUNet(UNet2DConditionModel):
    """A UNet that computes in its own way."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Twice what the stock one computes."""
        return tuple(2 * x for x in super().forward(*args, **kwargs))


class OwnLinear(nn.Linear):
    """A linear layer that computes in its own way."""


class OwnTensor(torch.Tensor):
    """Weights as libraries that quantize make them."""


class OwnAttention(nn.Module):
    """An attention that computes in its own way, of plain layers."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.to_q, self.to_out = attention.to_q, attention.to_out


def own_weights(unet: UNet2DConditionModel) -> None:
    layer = unet.get_submodule(LINEAR)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(OwnTensor))


def offloaded(unet: UNet2DConditionModel) -> nn.Module:
    layer = unet.mid_block.resnets[0].conv1
    layer.forward = layer.forward
    return unet


CONV = "mid_block.resnets.0.conv1"
LINEAR = "mid_block.resnets.0.time_emb_proj"
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "`UNet2DModel` (no text)": (no_text, "a UNet2DModel: expected a stock UNet2DConditionModel"),
    "ControlNet": (lambda: ControlNetModel.from_unet(micro()), "a ControlNetModel: expected"),
    "`SimpleCrossAttn` blocks (DeepFloyd, unCLIP)": (
        lambda: micro(
            down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        ),
        "added_kv_proj_dim",
    ),
    "`cross_attention_norm`": (
        lambda: micro(
            down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_norm="layer_norm",
        ),
        "norm_cross",
    ),
    "K-diffusion blocks (latent upscaler)": (
        lambda: micro(
            down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"),
            up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"),
            mid_block_type=None,
            block_out_channels=(32, 32),
            attention_head_dim=8,
            resnet_time_scale_shift="ada_group",
        ),
        "norm_cross",
    ),
    "`attention_type` gated (GLIGEN)": (
        lambda: micro(attention_type="gated"),
        "attention_type is 'gated'",
    ),
    "`encoder_hid_dim_type` image_proj, not kept": (
        lambda: micro(**IMAGE),
        r"^encoder_hid_proj.image_embeds cannot be .* quantization.keep encoder_hid_proj.image_",
    ),
    "another `forward`": (lambda: OwnUNet(**MICRO), "OwnUNet computes in its own way"),
    "float16": (lambda: micro().half(), "is float16: .*pipeline.to"),
    "bfloat16": (lambda: micro().bfloat16(), "is bfloat16: .*pipeline.to"),
    "meta device, offloaded": (lambda: micro().to("meta"), "on the meta device: load"),
    "`torch.compile`": (lambda: torch.compile(micro()), "a compiled UNet: .* when it is quantized"),
    "`unet.compile()`": (changed(lambda u: u.compile() and None), "is compiled"),
    "compiled blocks": (changed(lambda u: u.mid_block.compile() and None), "mid_block.*compiled"),
    "DataParallel": (lambda: nn.DataParallel(micro()), "a DataParallel"),
    "an adapter (PEFT)": (
        changed(add_adapter),
        "an adapter is loaded.*fuse_lora",
    ),
    "an adapter by PEFT alone": (changed(inject_adapter), "adapter's layer: fuse or unload"),
    "IP-Adapter": (changed(with_ip_adapter), "computed by IPAdapterAttnProcessor2_0.*IP-Adapter"),
    "fused projections": (
        changed(lambda u: u.fuse_qkv_projections() and None),
        "fused projections, of which .*: load the UNet anew",
    ),
    "a module in two places": (changed(share), "are one module.*deepcopy"),
    "circular padding": (changed(circular), "circular"),
    "a replaced `forward`": (changed(offloaded), "forward replaced"),
    "a hook on a layer": (
        changed(lambda u: u.get_submodule(CONV).register_forward_hook(print) and None),
        "has hooks",
    ),
    "a hook before a layer": (
        changed(lambda u: u.get_submodule(CONV).register_forward_pre_hook(print) and None),
        "has hooks",
    ),
    "`LoRACompatibleConv`": (
        replaced(CONV, lambda c: LoRACompatibleConv(16, 16, 3, padding=1)),
        "LoRACompatibleConv. is not a plain",
    ),
    "a layer of another library": (
        replaced(LINEAR, lambda m: OwnLinear(m.in_features, m.out_features)),
        "OwnLinear. is not a plain",
    ),
    "an attention of another library": (
        replaced(ATTENTION, OwnAttention),
        "to_q belongs to a OwnAttention: expected an attention of diffusers",
    ),
    "weights of another library, such as quantized ones": (
        changed(own_weights),
        "weights of its own kind",
    ),
    "weight normalisation": (
        changed(lambda u: parametrizations.weight_norm(u.get_submodule(LINEAR)) and None),
        "is not a plain",
    ),
}
"""What cannot be quantized, and what is said."""


class Wrapped(nn.Module):
    """A layer with more layers around it, which change nothing."""

    def __init__(self, inner: nn.Module, more: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.inner = inner
        self.more = nn.ModuleDict(more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the inner layer computes."""
        for layer in self.more.values():
            flat = x.flatten(2) if isinstance(layer, nn.Conv1d) else x
            flat = flat[:, :, None] if isinstance(layer, nn.Conv3d) else flat
            x = x + 0 * layer(flat).sum()
        return self.inner(x)


def with_other_layers() -> UNet2DConditionModel:
    """Layers with weights that no recipe quantizes."""
    unet = micro(num_class_embeds=5)
    more = {
        "one": nn.Conv1d(16, 2, 1),
        "three": nn.Conv3d(16, 2, 1),
        "transposed": nn.ConvTranspose2d(16, 2, 1),
    }
    unet.set_submodule(CONV, Wrapped(unet.get_submodule(CONV), more))
    return unet


def with_shared_weights() -> UNet2DConditionModel:
    """Two layers with one parameter."""
    unet = micro()
    unet.mid_block.resnets[1].conv2.weight = unet.mid_block.resnets[0].conv2.weight
    return unet
