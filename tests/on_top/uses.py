"""What people put on top of a UNet: each use changes a pipeline and draws with it."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    ControlNetModel,
    MotionAdapter,
    PyramidAttentionBroadcastConfig,
    StableDiffusionControlNetPipeline,
    StableDiffusionSAGPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
    apply_pyramid_attention_broadcast,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from tests.on_top.loras import TO_Q, lora
from tests.tiny_pipelines import micro_unet

CONTROLLED = (16, 32)
"""Channels of a ControlNet's input layers: as many levels as the tiny VAE has."""


class MissingPackageError(Exception):
    """A use needs a package that is not installed."""


def draw(pipeline: Any, prompt: str = "a red circle", **more: Any) -> Tensor:
    """Latents of one prompt."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    asked = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 16, "width": 16}
    asked |= {"generator": generator, "output_type": "latent"} | more
    return pipeline(prompt, **asked).images


def image_of() -> Tensor:
    """A picture."""
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# Adapters


def with_lora(pipeline: Any) -> Tensor:
    pipeline.load_lora_weights(lora(stock_twin(pipeline.unet), strength=0.2))
    return draw(pipeline)


def two_loras(pipeline: Any) -> Tensor:
    twin = stock_twin(pipeline.unet)
    for seed, name in enumerate(("a", "b")):
        pipeline.load_lora_weights(lora(twin, strength=0.2, seed=seed), adapter_name=name)
    pipeline.set_adapters(["a", "b"], [0.7, 0.3])
    return draw(pipeline)


def fused_lora(pipeline: Any) -> Tensor:
    pipeline.load_lora_weights(lora(stock_twin(pipeline.unet), strength=0.2))
    try:
        pipeline.fuse_lora()
    except Exception:
        pipeline.unload_lora_weights()
        raise
    return draw(pipeline)


def trained_lora(pipeline: Any) -> Tensor:
    import peft

    unet = pipeline.unet
    torch.manual_seed(0)
    unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights="gaussian"))
    try:
        unet(torch.randn(1, 4, 8, 8), 401.0, torch.randn(1, 77, 16))[0].sum().backward()
    except Exception:
        unet.unload_lora()
        raise
    gradient = unet.get_submodule(TO_Q).lora_B["default"].weight.grad
    assert gradient is not None
    assert bool(gradient.isfinite().all() and gradient.any())
    trained = [p for p in unet.parameters() if p.grad is not None]
    torch.optim.SGD(trained, lr=1.0).step()
    return draw(pipeline)


def other_adapters(kind: str) -> Callable[[Any], Tensor]:
    def use(pipeline: Any) -> Tensor:
        import peft

        options: dict[str, Any] = {"r": 2, "target_modules": ["to_q"]}
        if kind == "DoRA":
            config: Any = peft.LoraConfig(use_dora=True, **options)
        else:
            config = getattr(peft, f"{kind}Config")(**options)
        pipeline.unet.add_adapter(config)
        return draw(pipeline)

    return use


def ip_adapter(pipeline: Any) -> Tensor:
    pipeline.unet._load_ip_adapter_weights([ip_adapter_state(stock_twin(pipeline.unet))])
    pipeline.set_ip_adapter_scale(0.8)
    picture = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))
    return draw(pipeline, ip_adapter_image_embeds=[picture])


def ip_adapter_state(unet: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Random weights of an IP-Adapter of four tokens for a picture's embedding of eight numbers."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    proj = {"proj.weight": randn(4 * 16, 8), "proj.bias": torch.zeros(64)}
    proj |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    keys = {}
    for i, name in enumerate(unet.attn_processors):  # self- and cross-attention in turns
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).inner_dim
            keys |= {f"{i}.to_{x}_ip.weight": randn(width, 16) for x in "kv"}
    return {"image_proj": proj, "ip_adapter": keys}


def textual_inversion(pipeline: Any) -> Tensor:
    word = torch.randn(16, generator=torch.Generator().manual_seed(0))
    pipeline.load_textual_inversion({"<round>": word})
    return draw(pipeline, "a red <round>")


# Networks beside it


def controlnet(source: Callable[[Any], Any]) -> Callable[[Any], Tensor]:
    def use(pipeline: Any) -> Tensor:
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(
            source(pipeline), conditioning_embedding_out_channels=CONTROLLED
        )
        for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            nn.init.normal_(layer.weight, std=0.1)
        controlled = StableDiffusionControlNetPipeline(**pipeline.components, controlnet=net)
        return draw(controlled, image=image_of())

    return use


def added_residuals(pipeline: Any) -> Tensor:
    """What a T2I-Adapter adds to the features of the blocks that lead down."""
    generator = torch.Generator().manual_seed(0)
    features = [0.2 * torch.randn(2, n, 4, 4, generator=generator) for n in (8, 16)]

    def add(unet: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"down_intrablock_additional_residuals": list(features)}

    handle = pipeline.unet.register_forward_pre_hook(add, with_kwargs=True)
    try:
        return draw(pipeline)
    finally:
        handle.remove()


def animatediff(pipeline: Any) -> Tensor:
    torch.manual_seed(0)
    motion = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )
    # In integers the rest of the UNet is bfloat16, which the motion model takes over.
    pipeline.unet = UNetMotionModel.from_unet2d(pipeline.unet, motion).to(torch.float32)
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    parts = {name: pipeline.components[name] for name in names}
    moving = AnimateDiffPipeline(**parts, motion_adapter=motion)
    moving.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    asked = {"num_frames": 2, "num_inference_steps": 2, "height": 16, "width": 16}
    return moving("a", generator=generator, output_type="latent", **asked).frames


# Other pipelines


def pag(pipeline: Any) -> Tensor:
    layers = ["mid", "up_blocks.0"]
    options = {"enable_pag": True, "pag_applied_layers": layers}
    guided = AutoPipelineForText2Image.from_pipe(pipeline, **options)
    return draw(guided, pag_scale=3.0)


def self_attention_guidance(pipeline: Any) -> Tensor:
    return draw(StableDiffusionSAGPipeline(**pipeline.components), sag_scale=0.75)


def img2img(pipeline: Any) -> Tensor:
    other = AutoPipelineForImage2Image.from_pipe(pipeline)
    other.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 4, "strength": 0.7, "output_type": "latent"}
    return other("a", image=image_of(), generator=torch.Generator().manual_seed(0), **asked).images


def inpainting(pipeline: Any) -> Tensor:
    other = AutoPipelineForInpainting.from_pipe(pipeline)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    return draw(other, image=image_of(), mask_image=mask, strength=0.7)


def reference_only(pipeline: Any) -> Tensor:
    """Self-attention that reads further tokens, as the community's reference-only pipelines do."""
    bank = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    attention = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    stock = attention.forward

    def forward(x: Tensor, encoder_hidden_states: Any = None, **more: Any) -> Tensor:
        return stock(x, encoder_hidden_states=torch.cat([x, bank.to(x.dtype)], 1), **more)

    attention.forward = forward
    try:
        return draw(pipeline)
    finally:
        del attention.forward


def prompt_to_prompt(pipeline: Any) -> Tensor:
    """Attentions, found by the name of their class, whose forward is exchanged and edits scores."""
    found = [m for m in pipeline.unet.modules() if type(m).__name__ == "Attention"]

    def edited(attention: Any) -> Callable[..., Tensor]:
        def forward(x: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
            text = x if encoder_hidden_states is None else encoder_hidden_states
            parts = (attention.to_q(x), attention.to_k(text), attention.to_v(text))
            query, key, value = map(attention.head_to_batch_dim, parts)
            scores = attention.get_attention_scores(query, key)
            scores[..., 2] *= 2
            return attention.to_out[0](attention.batch_to_head_dim(scores @ value))  # type: ignore[no-any-return]

        return forward

    for attention in found:
        attention.forward = edited(attention)
    try:
        return draw(pipeline)
    finally:
        for attention in found:
            del attention.forward


# Switches


def freeu(pipeline: Any) -> Tensor:
    pipeline.enable_freeu(0.9, 0.2, 1.2, 1.4)
    return draw(pipeline)


def token_merging(pipeline: Any) -> Tensor:
    try:
        import tomesd
    except ImportError as error:
        raise MissingPackageError("tomesd") from error
    tomesd.apply_patch(pipeline, ratio=0.5, max_downsample=2)
    try:
        return draw(pipeline)
    finally:
        tomesd.remove_patch(pipeline)


def fused_projections(pipeline: Any) -> Tensor:
    pipeline.fuse_qkv_projections(vae=False)
    return draw(pipeline)


def attention_slicing(pipeline: Any) -> Tensor:
    pipeline.enable_attention_slicing()
    return draw(pipeline)


def stock_processors(pipeline: Any) -> Tensor:
    pipeline.unet.set_attn_processor(AttnProcessor2_0())
    return draw(pipeline)


def attention_backend(pipeline: Any) -> Tensor:
    pipeline.unet.set_attention_backend("native")
    return draw(pipeline)


def layerwise_casting(pipeline: Any) -> Tensor:
    pipeline.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)
    return draw(pipeline)


def attention_broadcast(pipeline: Any) -> Tensor:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1000),
        spatial_attention_block_identifiers=("attentions",),
        current_timestep_callback=lambda: 500,
    )
    apply_pyramid_attention_broadcast(pipeline.unet, config)
    return draw(pipeline)


def chunked_feed_forward(pipeline: Any) -> Tensor:
    for module in pipeline.unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(4, 1)
    return draw(pipeline)


def other_size(pipeline: Any) -> Tensor:
    return draw(pipeline, height=32)


def every_scheduler(pipeline: Any) -> Tensor:
    """Pictures by all schedulers that diffusers holds compatible and whose packages are here."""
    own, pictures = pipeline.scheduler, []
    for kind in sorted(own.compatibles, key=lambda kind: kind.__name__):
        try:
            pipeline.scheduler = kind.from_config(own.config)
        except ImportError:
            continue
        picture = draw(pipeline, num_inference_steps=2)
        assert bool(picture.isfinite().all()), kind.__name__
        pictures.append(picture)
    assert len(pictures) > 10
    return torch.cat(pictures)


def stock_twin(unet: Any) -> Any:
    """A stock UNet of the same structure, on the meta device."""
    config = {k: v for k, v in unet.config.items() if k != "quantization_config"}
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


USES: dict[str, Callable[[Any], Tensor]] = {
    "LoRA (`load_lora_weights`)": with_lora,
    "two LoRAs with weights (`set_adapters`)": two_loras,
    "`fuse_lora`": fused_lora,
    "training a LoRA (`add_adapter`)": trained_lora,
    "DoRA": other_adapters("DoRA"),
    "LoHa": other_adapters("LoHa"),
    "LoKr": other_adapters("LoKr"),
    "IP-Adapter": ip_adapter,
    "textual inversion": textual_inversion,
    "ControlNet": controlnet(lambda pipeline: micro_unet()),
    "`ControlNetModel.from_unet`": controlnet(lambda pipeline: pipeline.unet),
    "T2I-Adapter (added residuals)": added_residuals,
    "AnimateDiff (`UNetMotionModel.from_unet2d(...).to(torch.float32)`)": animatediff,
    "PAG (`enable_pag=True`)": pag,
    "self-attention guidance": self_attention_guidance,
    "img2img": img2img,
    "inpainting with a text-to-image UNet": inpainting,
    "reference-only attention": reference_only,
    "prompt-to-prompt (exchanges `attn.forward`)": prompt_to_prompt,
    "another size": other_size,
    "every compatible scheduler": every_scheduler,
    "FreeU": freeu,
    "token merging (`tomesd`)": token_merging,
    "`fuse_qkv_projections`": fused_projections,
    "attention slicing": attention_slicing,
    "`set_attn_processor(AttnProcessor2_0())`": stock_processors,
    "`set_attention_backend`": attention_backend,
    "layerwise casting": layerwise_casting,
    "pyramid attention broadcast": attention_broadcast,
    "chunked feed-forward": chunked_feed_forward,
}
