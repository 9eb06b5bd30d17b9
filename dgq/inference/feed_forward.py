"""Feed-forward blocks that run: their gate hands codes to the last layer, not floating point."""

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from dgq.inference.channel_input import ChannelInput
from dgq.inference.integer_layer import IntegerLayer

N_MODULES = 3
"""Of a block without a final dropout: a gate, a dropout, a layer."""


class GatedFeedForward(FeedForward):
    """A feed-forward block with a GEGLU whose product, gate and quantization are one step.

    A stock block that ``hand_over_codes_`` gave this class. In training, and where adapters are
    around a layer or hooks look at what is computed, it computes as the stock one.
    """

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[batch, tokens, channels]``, the same shape back."""
        if self.training or not is_gated(self):
            stock: Tensor = super().forward(hidden_states, *args, **kwargs)
            return stock
        gate, _, last = self.net
        output: Tensor = last(gate.proj.gated(hidden_states, last.input_quantizer))
        return output


def hand_over_codes_(unet: nn.Module) -> None:
    """Let every feed-forward block that can be gated in integers be so."""
    for module in unet.modules():
        if type(module) is FeedForward and is_gated(module):
            module.__class__ = GatedFeedForward


def hand_over_floats_(unet: nn.Module) -> None:
    """Undo ``hand_over_codes_``."""
    for module in unet.modules():
        if isinstance(module, GatedFeedForward):
            module.__class__ = FeedForward


def is_gated(block: FeedForward) -> bool:
    """Whether a block has a GEGLU and two layers that multiply integers, and no hooks."""
    if len(block.net) != N_MODULES or type(block.net[0]) is not GEGLU:
        return False
    gate, dropout, last = block.net
    return (
        multiplies(gate.proj)
        and multiplies(last)
        and not any(map(is_hooked, (gate, gate.proj, dropout, last)))
    )


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks see what a module reads or puts out."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def multiplies(layer: nn.Module) -> bool:
    """Whether a layer multiplies the codes of its own quantizer, whose ranges are fixed."""
    return type(layer) is IntegerLayer and type(layer.input_quantizer) is ChannelInput
