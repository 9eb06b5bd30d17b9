"""Each grouping has its quantizer, which knows what it quantizes."""

import pytest

from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.activations import activation_quantizer
from dgq.quantizers.channel_quantizer import ChannelQuantizer
from dgq.quantizers.exponent_quantizer import ExponentQuantizer
from dgq.quantizers.live_quantizer import LiveQuantizer
from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.quantizers.residual_quantizer import ResidualQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.context import QuantizationContext

KINDS = {
    "kmeans": ActivationQuantizer,
    "exponents": ExponentQuantizer,
    "multiples": MultipleQuantizer,
    "live": LiveQuantizer,
    "residual": ResidualQuantizer,
}


@pytest.mark.parametrize("grouping", KINDS)
@pytest.mark.parametrize(("of_text", "padded"), [(False, False), (True, False), (False, True)])
def test_each_grouping_has_its_quantizer(grouping: str, of_text: bool, padded: bool) -> None:
    settings = ActivationSettings(8, grouping, max_exponent=0)  # type: ignore[arg-type]
    context = QuantizationContext([0], (4, 4))
    quantizer = activation_quantizer(settings, context, of_text, padded)
    assert type(quantizer) is KINDS[grouping]
    assert quantizer.settings is settings
    assert quantizer.context is context
    if not isinstance(quantizer, LiveQuantizer):  # its zero points are always among the codes
        assert quantizer.of_text == of_text
    if isinstance(quantizer, ChannelQuantizer):
        assert quantizer.padded == padded
