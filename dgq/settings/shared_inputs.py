"""Layers that read one tensor, which their attention quantizes once for all of them."""

SHARED_INPUTS = ("to_q", "to_k", "to_v")
"""Layers of an attention whose input is quantized by the attention."""


def shares_input(name: str) -> bool:
    """Whether the input of a layer, given by name, is quantized by its attention."""
    return name.rpartition(".")[2] in SHARED_INPUTS


def input_owner(name: str) -> str:
    """Name of the module that quantizes the input of a layer: the layer, or its attention."""
    return name.rpartition(".")[0] if shares_input(name) else name
