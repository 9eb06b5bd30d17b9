"""Names of a UNet's tensors in the original layout of Stable Diffusion (LDM), which ComfyUI reads.

The inverse of ``convert_ldm_unet_checkpoint`` of diffusers, from the UNet's structure.
"""

from collections.abc import Iterator
from typing import Any

from dgq.errors import DGQError
from dgq.pipelines.single_files import UNET_PREFIX

TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""Modules outside of the blocks."""

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
"""Modules of a residual block; those of an attention have the same names in both layouts."""


def ldm_name(name: str, prefixes: dict[str, str]) -> str:
    """The name of a tensor in the original layout.

    Args:
        name: in diffusers.
        prefixes: as ``ldm_prefixes`` returns them.

    Raises:
        DGQError: for a tensor that the original layout has no place for.
    """
    module, _, leaf = name.rpartition(".")
    if module in TOP:
        return f"{UNET_PREFIX}{TOP[module]}.{leaf}"
    for ours, theirs in prefixes.items():
        if module.startswith(ours + ".") or module == ours:
            rest = module[len(ours) :].removeprefix(".")
            if ".resnets." in f".{ours}":
                rest = RESNET[rest]
            return UNET_PREFIX + ".".join(part for part in (theirs, rest, leaf) if part)
    raise DGQError(
        f"the original layout of Stable Diffusion has no place for {name}: expected the UNet of "
        "Stable Diffusion 1.x, 2.x or SDXL"
    )


def ldm_prefixes(config: Any) -> dict[str, str]:
    """Where each residual block, attention and sampler of a UNet lies in the original layout.

    Args:
        config: of the UNet.

    Raises:
        DGQError: for a UNet that the original layout cannot describe.
    """
    if not isinstance(config.layers_per_block, int) or config.mid_block_type is None:
        raise DGQError(
            "this UNet has blocks of different depth, or no middle block, which the original "
            "layout cannot hold: expected the UNet of Stable Diffusion 1.x, 2.x or SDXL"
        )
    return dict((*_down(config), *_middle(config), *_up(config)))


def _down(config: Any) -> Iterator[tuple[str, str]]:
    each, n_blocks = config.layers_per_block, len(config.down_block_types)
    for block in range(n_blocks):
        first = 1 + block * (each + 1)
        for layer in range(each):
            yield f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{first + layer}.0"
            yield f"down_blocks.{block}.attentions.{layer}", f"input_blocks.{first + layer}.1"
        downsampler = f"down_blocks.{block}.downsamplers.0.conv"
        yield downsampler, f"input_blocks.{first + each}.0.op"


def _middle(config: Any) -> Iterator[tuple[str, str]]:
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"


def _up(config: Any) -> Iterator[tuple[str, str]]:
    each = config.layers_per_block + 1
    for block, kind in enumerate(config.up_block_types):
        first = block * each
        for layer in range(each):
            yield f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{first + layer}.0"
            yield f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{first + layer}.1"
        place = 2 if "CrossAttn" in kind else 1
        upsampler = f"up_blocks.{block}.upsamplers.0.conv"
        yield upsampler, f"output_blocks.{first + each - 1}.{place}.conv"
