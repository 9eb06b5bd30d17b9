"""Packed layers of random codes, scales and formats, and what they are made of."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from dgq.inference.channel_input import ChannelInput
from dgq.inference.integer_layer import IntegerLayer, fold
from dgq.inference.layers import PackedLayer
from dgq.inference.products import Products
from dgq.inference.products.cpu import CpuProducts
from dgq.math.exponents import spare_activation_bits, spare_weight_bits
from dgq.math.multiples import possible_multiples
from dgq.math.packing import pack_codes
from dgq.settings import WeightSettings
from dgq.unet.calls import SamplerCall, SamplerCalls
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry

N_STEPS = 3
CPU = CpuProducts()

linears = st.builds(LinearGeometry, st.integers(1, 50), st.integers(1, 20))
pairs = {
    n: st.tuples(*[st.integers(low, high)] * 2)
    for n, low, high in (("kernel", 1, 3), ("stride", 1, 2), ("padding", 0, 2), ("dilation", 1, 2))
}
convolutions = st.integers(1, 3).flatmap(
    lambda groups: st.builds(
        ConvGeometry,
        in_channels=st.integers(1, 7).map(lambda n: n * groups),
        out_channels=st.integers(1, 7).map(lambda n: n * groups),
        groups=st.just(groups),
        **pairs,
    )
)


@st.composite
def formats(draw: Any) -> dict[str, Any]:
    """Bits of both operands, and exponents within what they leave free."""
    weight_bits, activation_bits = draw(st.integers(2, 8)), draw(st.integers(2, 8))
    symmetric = weight_bits == 8 or draw(st.booleans())
    on_weights = spare_weight_bits(weight_bits, symmetric)
    assert on_weights is not None
    weight_exponent = draw(st.integers(0, on_weights))
    free = on_weights - weight_exponent + spare_activation_bits(activation_bits)
    weights = WeightSettings(
        weight_bits,
        symmetric=symmetric,
        group_size=draw(st.sampled_from([1, 3, 8])) if weight_exponent else 0,
        max_exponent=weight_exponent,
    )
    return {
        "weights": weights,
        "activation_bits": activation_bits,
        "room": draw(st.integers(0, min(free, 8))),
        "per_tensor": draw(st.booleans()),
        "per_step": draw(st.booleans()),
    }


def packed_layer(
    geometry: Geometry, formats: dict[str, Any], step: Tensor, seed: int, bias: bool = True
) -> PackedLayer:
    """A layer of random codes, zero points, scales and exponents, with its quantizer."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high + 1, size, generator=generator)

    weights, n_bits = formats["weights"], formats["activation_bits"]
    calls = SamplerCalls(range(N_STEPS), (8, 8))
    calls.current = SamplerCall(step, (8, 8))
    channels = geometry.in_channels
    quantizer = ChannelInput(n_bits, calls, channels, max_exponent=formats["room"])
    rows, columns = N_STEPS if formats["per_step"] else 1, 1 if formats["per_tensor"] else channels
    finest = 16 / 2 ** (n_bits + formats["room"])  # so that codes span the input
    quantizer.store("scale", finest * (torch.rand(rows, generator=generator) + 0.1))
    around = 0 if geometry.pads else 20  # zero points may lie outside of the codes
    zeros = whole(-around, quantizer.largest + around, rows, columns)
    quantizer.store("zero_point", zeros.to(torch.int16))
    multiples = possible_multiples(n_bits, formats["room"])
    quantizer.store("multiple", multiples[whole(0, len(multiples) - 1, columns)].to(torch.int16))

    layer = PackedLayer(geometry, quantizer, n_bits, weights=weights, has_bias=bias)
    out, largest = geometry.out_channels, 2**weights.n_bits - 1
    layer.store("codes", pack_codes(whole(0, largest, out, layer.fan_in), weights.n_bits))
    layer.store("scale", torch.rand(out, generator=generator) + 0.01)
    layer.store("zero_point", whole(0, largest, out).float())
    if weights.symmetric:
        layer.store("zero_point", torch.full((out,), 2.0 ** (weights.n_bits - 1)))
    if weights.has_exponents:
        groups = -(-layer.fan_in // weights.group_size)
        layer.store("exponent", whole(0, weights.max_exponent, out, groups).to(torch.uint8))
    if bias:
        layer.store("bias", torch.randn(out, generator=generator))
    assert layer.problem() is quantizer.problem() is None
    return layer


def integer_layer(packed: PackedLayer, products: Products = CPU) -> IntegerLayer:
    quantizer = packed.input_quantizer
    assert isinstance(quantizer, ChannelInput)
    channels = packed.geometry.in_channels
    folded = fold(packed, quantizer.factors(channels)[1])
    assert folded is not None, "what fits the budget fits into 8 bits"
    quantizer.prepare_(channels, products)
    return IntegerLayer(packed, quantizer, folded, products)


def random_input(geometry: Geometry, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    spatial = (5, 6) if isinstance(geometry, ConvGeometry) else ()
    shape = (batch, geometry.in_channels, *spatial) if spatial else (batch, 4, geometry.in_channels)
    return torch.randn(shape, generator=generator) * 2


def relative(found: Tensor, expected: Tensor) -> float:
    """Error relative to the size of the terms that a sum is made of."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-6))
