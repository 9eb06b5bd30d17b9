"""Targets: the units of block-wise reconstruction."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from dgq.quantize import layers_to_quantize

BLOCKS = (ResnetBlock2D, BasicTransformerBlock)


def find_targets(unet: nn.Module, keep: Sequence[str]) -> dict[str, nn.Module]:
    """Resnets, transformer blocks, and the layers outside of both that are quantized, by name.

    In the order of registration; ``execution_order`` sorts them as they run. SD 1.4 has 78 and
    SDXL 117: their 80 and 119 blocks and lone layers, less ``conv_in`` and ``conv_out``.

    Args:
        unet: stock or quantized.
        keep: patterns of the layers that stay in full precision.
    """
    quantized = layers_to_quantize(unet, keep)
    blocks = [name for name, module in unet.named_modules() if isinstance(module, BLOCKS)]
    names = [b for b in blocks if any(is_inside(name, b) for name in quantized)]
    names += [n for n in quantized if not any(is_inside(n, b) for b in blocks)]
    return {name: unet.get_submodule(name) for name in names}


def is_inside(name: str, block: str) -> bool:
    """Whether a module lies below a block, by their names."""
    return name.startswith(block + ".")


@torch.no_grad()
def execution_order(
    unet: nn.Module, targets: Mapping[str, nn.Module], call: Mapping[str, Any]
) -> list[str]:
    """Names of the targets in the order in which one forward pass runs them.

    Args:
        unet: the UNet that holds them.
        targets: by name.
        call: keyword arguments of one UNet call.
    """
    order: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: order.append(name))
        for name, module in targets.items()
    ]
    try:
        unet(**call)
    finally:
        for hook in hooks:
            hook.remove()
    return order
