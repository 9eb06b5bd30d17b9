"""LoRA weights for the layers of a UNet, as files hold them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"

LEAVES = (
    *("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "linear_1", "conv_in", "conv"),
)
"""What the names of the layers end with that adapters of all kinds of LoRA trainers go on."""


def lora(
    unet: nn.Module, leaves: tuple[str, ...] = LEAVES, strength: float = 0.3, seed: int = 3
) -> dict[str, Tensor]:
    """Random factors of rank 2 for all layers of a stock UNet with such names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, module in unet.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d) or not ends(name, leaves):
            continue
        out, *inside = module.weight.shape
        fan_in = module.weight[0].numel()
        down = torch.randn(2, *inside, generator=generator) * strength / fan_in**0.5
        up = torch.randn(out, 2, *[1 for _ in inside[1:]], generator=generator) * strength
        state |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    return state


def ends(name: str, leaves: tuple[str, ...]) -> bool:
    """Whether a name is one of these, or ends with one."""
    return any(name == leaf or name.endswith(f".{leaf}") for leaf in leaves)


def factors(state: dict[str, Tensor], layer: str) -> Callable[[Tensor], Tensor]:
    """``B A x`` of a linear layer, from the state of a LoRA."""
    down, up = (state[f"unet.{layer}.lora_{x}.weight"] for x in "AB")
    return lambda x: x.float() @ down.T @ up.T
