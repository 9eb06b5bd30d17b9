"""Targets: the units of block-wise reconstruction."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from dgq.errors import DGQError
from dgq.layers import quantized_layers
from dgq.quantize import layers_to_quantize

BLOCKS = (ResnetBlock2D, BasicTransformerBlock, Attention)


def find_targets(unet: nn.Module, keep: Sequence[str]) -> dict[str, nn.Module]:
    """Resnets, transformer blocks, lone attentions, and lone layers that are quantized, by name.

    In the order of registration; ``execution_order`` sorts them as they run. SD 1.4 has 78 and
    SDXL 117: their 80 and 119 blocks and lone layers, less ``conv_in`` and ``conv_out``.

    Args:
        unet: stock or quantized.
        keep: patterns of the layers that stay in full precision.
    """
    quantized = layers_to_quantize(unet, keep)
    found = [name for name, module in unet.named_modules() if isinstance(module, BLOCKS)]
    blocks = [name for name in found if not any(is_inside(name, other) for other in found)]
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

    Raises:
        DGQError: if a target or a quantized layer in it does not run exactly once.
    """
    order: list[str] = []
    layers = {
        f"{target}.{name}".removesuffix("."): layer
        for target, module in targets.items()
        for name, layer in quantized_layers(module).items()
    }
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, _args, name=name, to=to: to.append(name))
        for names, to in ((targets, order), (layers, ran))
        for name, module in names.items()
    ]
    try:
        unet(**call)
    finally:
        for hook in hooks:
            hook.remove()
    _check_once(targets, order)
    _check_once(layers, ran)
    return order


def _check_once(names: Iterable[str], ran: Sequence[str]) -> None:
    """Raise DGQError unless each of these ran once."""
    counts = Counter(ran)
    for name in names:
        if counts[name] != 1:
            how = "never runs" if counts[name] == 0 else f"runs {counts[name]} times"
            raise DGQError(
                f"{name} {how} in a call of the UNet, so it cannot be calibrated: keep it in "
                f"full precision by quantization.keep {name}*"
            )
