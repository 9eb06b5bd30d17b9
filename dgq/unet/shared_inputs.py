"""Layers that read one tensor, which their attention quantizes once for all of them."""

from typing import Any, cast

from torch import nn

from dgq.settings import FLOAT_BITS
from dgq.unet.projection import Projection
from dgq.unet.readers import Reader, innermost

SHARED_INPUTS = ("to_q", "to_k", "to_v")
"""Layers of an attention whose input is quantized by the attention."""


def shares_input(name: str) -> bool:
    """Whether the input of a layer, given by name, is quantized by its attention."""
    return name.rpartition(".")[2] in SHARED_INPUTS


def input_owner(name: str) -> str:
    """Name of the module that quantizes the input of a layer: the layer, or its attention."""
    return name.rpartition(".")[0] if shares_input(name) else name


def input_quantizer_of(unet: nn.Module, name: str) -> nn.Module | None:
    """The quantizer of a layer's input, its own or its attention's, at any stage."""
    owner = unet.get_submodule(input_owner(name))
    of_text = getattr(owner, "context_quantizer", None)
    if of_text is not None and shares_input(name) and not name.endswith("to_q"):
        return cast(nn.Module, of_text)
    return cast(nn.Module | None, owner.input_quantizer)


def describe_projections_(attention: Any) -> None:
    """Tell to_q, to_k and to_v what is quantized around them, where they are called alone.

    Args:
        attention: a quantized attention, with its layers and quantizers.
    """
    outputs = (attention.query_quantizer, attention.key_quantizer, attention.value_quantizer)
    for name, output in zip(SHARED_INPUTS, outputs, strict=True):
        layer = innermost(getattr(attention, name))
        text = None if name == "to_q" else attention.context_quantizer
        if isinstance(layer, Reader):
            layer.projection = Projection(
                attention.input_quantizer if text is None else text,
                output,
                text is not None and attention.keep_start_text,
                name == "to_k" and attention.keep_start,
                attention.score_bits != FLOAT_BITS,
            )
