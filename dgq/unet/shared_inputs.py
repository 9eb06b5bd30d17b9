"""Layers that read one tensor, which their attention quantizes once for all of them."""

from typing import cast

from torch import nn

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
