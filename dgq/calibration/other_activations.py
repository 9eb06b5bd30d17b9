"""Other quantizers of the activations, from the ranges that a calibration observed."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from dgq.errors import DGQError
from dgq.quantizers.activations import activation_quantizer
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.settings import FLOAT_BITS, QuantizationSettings, operand_bits
from dgq.unet.attention import QuantizedAttention, become_quantized_
from dgq.unet.context import context_of
from dgq.unet.layers import pads, quantized_layers
from dgq.unet.quantize import activation_quantizers, attention_quantizers, fit_activations_
from dgq.unet.start_token import KeptStart, kept_start


def sharing_copy(unet: nn.Module) -> Any:
    """A copy of a UNet under calibration that shares its parameters and quantized weights.

    It has its own quantizers of activations and its own context.
    """
    own = {
        id(tensor)
        for quantizer in unet.modules()
        if isinstance(quantizer, RangeQuantizer)
        for tensor in quantizer.buffers(recurse=False)
    }
    tensors = [*unet.parameters(), *unet.buffers()]
    return copy.deepcopy(unet, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})


def requantize_activations_(unet: nn.Module, settings: QuantizationSettings) -> None:
    """Replace all quantizers of activations, fitting the new ones to the observed ranges.

    Args:
        unet: a UNet under calibration.
        settings: settings whose weight settings are those of the calibration.

    Raises:
        DGQError: if something to be quantized was not observed, or was observed with other tokens.
    """
    context = context_of(unet)
    observers = {n: q.observer for n, q in activation_quantizers(unet).items()}
    for name, layer in quantized_layers(unet).items():
        activations = settings.activations_of(name)
        if layer.input_quantizer is not None:
            padded = pads(layer)  # type: ignore[arg-type]
            layer.input_quantizer = activation_quantizer(activations, context, padded=padded)
        layer.activation_bits = operand_bits(activations.n_bits)
    for name, attention in unet.named_modules():
        if isinstance(attention, QuantizedAttention):
            is_cross = bool(attention.is_cross_attention)
            quantizers = attention_quantizers(settings, name, is_cross, context)
            kept = kept_start(settings, name, is_cross)
            check_tokens(name, attention, quantizers, kept)
            become_quantized_(attention, context, quantizers, kept)
    for name, quantizer in activation_quantizers(unet).items():
        quantizer.observer = observers.get(name)
        if quantizer.observer is None:
            raise DGQError(
                f"{name} was in floating point when ranges were observed, so that it has none: "
                "calibrate again with what is to be quantized"
            )
    fit_activations_(unet)


def check_tokens(
    name: str,
    attention: QuantizedAttention,
    quantizers: Mapping[str, nn.Module | None],
    kept: KeptStart,
) -> None:
    """Raise DGQError if ranges that were observed are not those of the tokens to be quantized.

    The ``<start>`` token is an outlier, and the first of the tokens that groups are made of.

    Args:
        name: name of the attention, for the error.
        attention: attention that was observed.
        quantizers: its new quantizers.
        kept: where the new ones leave the token in full precision.
    """
    scores, text = (attention.keep_start, kept.scores), (attention.keep_start_text, kept.text)
    for part, of, (before, now) in (
        *((part, "scores", scores) for part in ("key", "score")),
        ("context", "activations", text),
    ):
        quantizer = quantizers[part]
        observes = isinstance(quantizer, RangeQuantizer) and quantizer.n_bits != FLOAT_BITS
        if before != now and observes:
            raise DGQError(
                f"{name}.{part}_quantizer was observed {'without' if before else 'with'} the "
                f"start token: set {of}.keep_start_token to {before}, or calibrate again"
            )
