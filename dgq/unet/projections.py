"""What each projection of an attention is told of it, for calls of the projection alone."""

from typing import Any

from dgq.settings import FLOAT_BITS
from dgq.unet.projection import Projection
from dgq.unet.readers import Reader, innermost
from dgq.unet.shared_inputs import SHARED_INPUTS


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
