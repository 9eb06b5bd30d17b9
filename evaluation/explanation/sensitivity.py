"""How much each part degrades the output when it alone is quantized."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dgq.inference.layers import FrozenLayer
from dgq.inference.laying_out import readers_of
from dgq.math.reconstruction import sqnr_db
from dgq.settings.shared_inputs import shares_input
from dgq.unet.attention import QuantizedAttention

QUANTIZERS = ("input", "context", "query", "key", "value", "score")
"""Names of an attention's quantizers."""


@dataclass(frozen=True)
class Part:
    """Layers that read one quantized tensor, or the inner quantizers of an attention.

    Args:
        name: name in the picture.
        layers: names of the layers.
        owner: name of the attention whose quantizers belong to it, if any.
        quantizers: names of these quantizers.
    """

    name: str
    layers: tuple[str, ...] = ()
    owner: str = ""
    quantizers: tuple[str, ...] = ()


def parts_of(unet: nn.Module) -> list[Part]:
    """Every part of a quantized UNet, in order of registration."""
    parts: list[Part] = []
    for name, module in unet.named_modules():
        if isinstance(module, QuantizedAttention):
            parts += attention_parts(unet, name, module)
        elif isinstance(module, FrozenLayer) and not shares_input(name):
            parts.append(Part(name, (name,)))
    return parts


def attention_parts(unet: nn.Module, name: str, owner: QuantizedAttention) -> Iterator[Part]:
    """Projections that read the same tensor together, then the attention's inner quantizers."""
    for quantizer, leaves in readers_of(owner).items():
        which = "input" if quantizer is owner.input_quantizer else "context"
        layers = tuple(f"{name}.{leaf}" for leaf in leaves)
        layers = tuple(n for n in layers if isinstance(unet.get_submodule(n), FrozenLayer))
        if layers:
            short = ", ".join(n.rpartition(".")[2] for n in layers)
            yield Part(f"{name}.{short}", layers, name, (which,))
    inside = tuple(n for n in QUANTIZERS[2:] if is_active(getattr(owner, f"{n}_quantizer")))
    if inside:
        yield Part(f"{name}: {', '.join(inside)}", (), name, inside)


def is_active(quantizer: nn.Module | None) -> bool:
    """Whether a quantizer has any effect."""
    return quantizer is not None and not isinstance(quantizer, nn.Identity)


class OneAtATime:
    """A quantized UNet in which only selected parts are quantized.

    Args:
        quantized: the quantized UNet, loaded for floating point; it is changed.
        stock: the same UNet in full precision.
    """

    def __init__(self, quantized: nn.Module, stock: nn.Module) -> None:
        self.unet = quantized
        self.parts = parts_of(quantized)
        names = {name for part in self.parts for name in part.layers}
        self._frozen = {name: quantized.get_submodule(name) for name in names}
        self._stock = {name: stock.get_submodule(name) for name in names}
        self._quantizers = {
            (name, which): getattr(module, f"{which}_quantizer")
            for name, module in quantized.named_modules()
            if isinstance(module, QuantizedAttention)
            for which in QUANTIZERS
        }
        self.set_(())

    def set_(self, parts: Sequence[Part]) -> None:
        """Quantize exactly these parts."""
        layers = {name for part in parts for name in part.layers}
        active = {(part.owner, which) for part in parts for which in part.quantizers}
        for name, frozen in self._frozen.items():
            self.unet.set_submodule(name, frozen if name in layers else self._stock[name])
        for (owner, which), quantizer in self._quantizers.items():
            chosen = quantizer if (owner, which) in active else off(quantizer, which)
            setattr(self.unet.get_submodule(owner), f"{which}_quantizer", chosen)


def off(quantizer: nn.Module | None, which: str) -> nn.Module | None:
    """The replacement of a quantizer that is off: None for scores, else the identity."""
    return None if quantizer is None or which == "score" else nn.Identity()


@torch.no_grad()
def sensitivity(
    parts: OneAtATime,
    calls: Sequence[Mapping[str, Any]],
    references: Sequence[Tensor],
    advance: Callable[[], None],
) -> dict[str, float]:
    """SQNR in decibels of the UNet's output with one part quantized, by the part's name.

    Args:
        parts: parts of the UNet.
        calls: keyword arguments.
        references: outputs in full precision.
        advance: called after each part.
    """
    reference = torch.cat(list(references))
    found = {}
    for part in parts.parts:
        parts.set_((part,))
        output = torch.cat([parts.unet(**call)[0] for call in calls])
        found[part.name] = float(sqnr_db(output, reference))
        advance()
    return found
