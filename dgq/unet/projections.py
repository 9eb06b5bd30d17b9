"""What an attention quantizes around each of its projections."""

from typing import Any, cast

from torch import nn

from dgq.settings import FLOAT_BITS
from dgq.settings.shared_inputs import input_owner, shares_input
from dgq.unet.projection import Projection
from dgq.unet.readers import Reader, innermost

OUTPUT_QUANTIZERS = {
    "to_q": "query_quantizer",
    "to_k": "key_quantizer",
    "to_v": "value_quantizer",
}


def describe_projections_(attention: Any) -> None:
    """Tell to_q, to_k and to_v what is quantized around them, where they are called alone.

    Args:
        attention: a quantized attention, with its layers and quantizers.
    """
    for name in OUTPUT_QUANTIZERS:
        layer = innermost(getattr(attention, name))
        if isinstance(layer, Reader):
            layer.projection = projection_of(attention, name)


def projection_of(attention: Any, name: str) -> Projection:
    """What a quantized attention does around ``to_q``, ``to_k`` or ``to_v``."""
    return Projection(
        attention.context_quantizer if reads_text(attention, name) else attention.input_quantizer,
        getattr(attention, OUTPUT_QUANTIZERS[name]),
        reads_text(attention, name) and attention.keep_start_text,
        name == "to_k" and attention.keep_start,
        attention.score_bits != FLOAT_BITS,
    )


def reads_text(attention: Any, name: str) -> bool:
    """Whether ``to_q``, ``to_k`` or ``to_v`` of a quantized attention reads the text context."""
    return name != "to_q" and attention.context_quantizer is not None


def input_quantizer_of(unet: nn.Module, name: str) -> nn.Module | None:
    """The quantizer of a layer's input, its own or its attention's, at any stage."""
    owner = unet.get_submodule(input_owner(name))
    if shares_input(name) and reads_text(owner, name.rpartition(".")[2]):
        return cast(nn.Module, owner.context_quantizer)
    return cast(nn.Module | None, owner.input_quantizer)
