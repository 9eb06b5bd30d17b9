"""The choice of an activation's quantizer."""

from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.exponent_quantizer import ExponentQuantizer
from dgq.quantizers.live_quantizer import LiveQuantizer
from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.quantizers.range_quantizer import RangeQuantizer
from dgq.quantizers.residual_quantizer import ResidualQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext


def activation_quantizer(
    settings: ActivationSettings,
    context: QuantizationContext,
    of_text: bool = False,
    padded: bool = False,
) -> RangeQuantizer:
    """The quantizer for these settings.

    Args:
        settings: bits and grouping.
        context: mode and step of the UNet.
        of_text: tokens are words, which do not move when the latents change their size.
        padded: whether the input is padded with zeros, which need a code if zero points are
            limited.
    """
    if settings.grouping == "live":
        return LiveQuantizer(settings, context)
    if settings.grouping == "residual":
        return ResidualQuantizer(settings, context)
    if settings.grouping == "multiples":
        return MultipleQuantizer(settings, context, of_text, padded)
    if settings.grouping == "exponents":
        return ExponentQuantizer(settings, context, of_text, padded)
    return ActivationQuantizer(settings, context, of_text=of_text)
