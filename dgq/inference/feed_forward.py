"""Feed-forward blocks whose gate passes codes to the last layer, not floating point."""

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from dgq.inference.channel_input import ChannelInput
from dgq.inference.integer_layer import IntegerLayer
from dgq.unet.readers import innermost, is_hooked, unwrapped

N_MODULES = 3
"""Number of modules in a block without a final dropout: a gate, a dropout, a layer."""


class GatedFeedForward(FeedForward):
    """A feed-forward block with a GEGLU whose product, gate and quantization are one step.

    ``hand_over_codes_`` gives a stock block this class. It computes as the stock one in training,
    and while a layer has active adapters or hooks look at intermediate results.
    """

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[batch, tokens, channels]``, the same shape back."""
        if self.training or not is_gated(self):
            stock: Tensor = super().forward(hidden_states, *args, **kwargs)
            return stock
        first, last = unwrapped(self.net[0].proj), unwrapped(self.net[2])
        output: Tensor = last(first.gated(hidden_states, last.input_quantizer))  # type: ignore[operator]
        return output


def hand_over_codes_(unet: nn.Module) -> None:
    """Make every feed-forward block whose gate can work in integers a ``GatedFeedForward``."""
    for module in unet.modules():
        # Adapters and hooks that are here now may be gone at a later call, which is then gated.
        if type(module) is FeedForward and has_codes_to_hand_over(module):
            module.__class__ = GatedFeedForward


def hand_over_floats_(unet: nn.Module) -> None:
    """Undo ``hand_over_codes_``."""
    for module in unet.modules():
        if isinstance(module, GatedFeedForward):
            module.__class__ = FeedForward


def has_codes_to_hand_over(block: FeedForward) -> bool:
    """Whether a block has a GEGLU and two integer layers, with or without adapters."""
    if len(block.net) != N_MODULES or type(block.net[0]) is not GEGLU:
        return False
    return all(multiplies(innermost(layer)) for layer in (block.net[0].proj, block.net[2]))


def is_gated(block: FeedForward) -> bool:
    """Whether a block can be computed in one step now: nothing else looks at its parts."""
    if not has_codes_to_hand_over(block):
        return False
    gate, dropout, last = block.net
    layers = (unwrapped(gate.proj), unwrapped(last))
    return all(map(multiplies, layers)) and not any(map(is_hooked, (gate, dropout, *layers)))


def multiplies(layer: nn.Module) -> bool:
    """Whether a layer multiplies the codes of its own quantizer, whose ranges are fixed."""
    return type(layer) is IntegerLayer and type(layer.input_quantizer) is ChannelInput
