"""Each grouping has its quantizer, which knows what it quantizes."""

import pytest
import torch

from dgq.quantizers.activation_quantizer import ActivationQuantizer
from dgq.quantizers.activations import activation_quantizer
from dgq.quantizers.channel_quantizer import ChannelQuantizer
from dgq.quantizers.exponent_quantizer import ExponentQuantizer
from dgq.quantizers.live_quantizer import LiveQuantizer
from dgq.quantizers.multiple_quantizer import MultipleQuantizer
from dgq.quantizers.residual_quantizer import ResidualQuantizer
from dgq.settings import ActivationSettings
from dgq.unet.calls import FIRST_STEP, SamplerCall
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


@pytest.mark.parametrize("grouping", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_quantized_in_float32(grouping: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 4, 4, generator=generator) * torch.logspace(-1, 1, 6)[:, None, None]
    half = (x + 100).to(dtype)
    context = QuantizationContext([0], (4, 4))
    context.current = SamplerCall(FIRST_STEP, (4, 4))
    settings = ActivationSettings(8, grouping, max_exponent=2)  # type: ignore[arg-type]
    found = []
    for given in (half, half.float()):
        quantizer = activation_quantizer(settings, context)
        context.observing, context.activations = True, False
        quantizer.start_observing_()
        quantizer(given)
        quantizer.fit_()
        context.observing, context.activations = False, True
        assert (quantizer.scale.dtype, quantizer.zero_point.dtype) == (torch.float32, torch.int32)
        found.append(quantizer(given))
        assert found[-1].dtype == given.dtype
    # The residual quantizer adds two rounds up.
    rounding = 2 * torch.finfo(dtype).eps if grouping == "residual" else 0
    torch.testing.assert_close(found[0], found[1].to(dtype), rtol=rounding, atol=0)
