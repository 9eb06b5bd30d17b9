"""Blocks, and layers outside of blocks, as targets."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from dgq.targets.target import Target
from dgq.unet.quantize import layers_to_quantize

BLOCKS = (ResnetBlock2D, BasicTransformerBlock, Attention)


@dataclass(frozen=True)
class Block(Target):
    """One module, reconstructed where it runs.

    Args:
        module: a block, or a layer outside of blocks.
        others: names, within the module, of layers that other targets learn.
    """

    module: nn.Module
    others: Set[str] = frozenset()

    @property
    def entrance(self) -> nn.Module:
        """The module."""
        return self.module

    def parts(self) -> Iterator[nn.Module]:
        """The module and its submodules, except those of other targets."""
        for name, module in self.module.named_modules():
            if not any(name == other or is_inside(name, other) for other in self.others):
                yield module

    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """The module's output."""
        output: Tensor = self.module(*args, **kwargs)
        return output


def find_blocks(
    unet: nn.Module, keep: Sequence[str], others: Set[str] = frozenset()
) -> dict[str, Target]:
    """Resnets, transformer blocks, lone attentions, and lone layers that are quantized, by name.

    They are in order of registration; ``execution_order`` sorts them by execution. SD 1.4 has 78
    and SDXL 117: their 80 and 119 blocks and lone layers, minus ``conv_in`` and ``conv_out``.

    Args:
        unet: stock or quantized.
        keep: patterns of the layers that stay in full precision.
        others: names of layers that other targets learn.
    """
    layers = [name for name in layers_to_quantize(unet, keep) if name not in others]
    found = [name for name, module in unet.named_modules() if isinstance(module, BLOCKS)]
    blocks = [name for name in found if not any(is_inside(name, other) for other in found)]
    names = [b for b in blocks if any(is_inside(name, b) for name in layers)]
    names += [n for n in layers if not any(is_inside(n, b) for b in blocks)]
    return {name: Block(unet.get_submodule(name), below(name, others)) for name in names}


def below(block: str, names: Set[str]) -> Set[str]:
    """Those names that lie below a block, relative to it."""
    return frozenset(n.removeprefix(f"{block}.") for n in names if is_inside(n, block))


def is_inside(name: str, block: str) -> bool:
    """Whether a module lies below a block, judging by their names."""
    return name.startswith(block + ".")
