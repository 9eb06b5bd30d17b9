"""What an attention quantizes around each of its projections, where these are called one by one."""

from typing import Any

from dgq.settings import FLOAT_BITS
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
    of_text = name != "to_q" and attention.context_quantizer is not None
    return Projection(
        attention.context_quantizer if of_text else attention.input_quantizer,
        getattr(attention, OUTPUT_QUANTIZERS[name]),
        of_text and attention.keep_start_text,
        name == "to_k" and attention.keep_start,
        attention.score_bits != FLOAT_BITS,
    )
