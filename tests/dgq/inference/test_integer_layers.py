"""Layers that multiply integers against the same layers in floating point."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgq.errors import DGQError
from dgq.inference.folding import fits
from dgq.inference.geometry import ConvGeometry, Geometry, LinearGeometry
from dgq.inference.input_quantizers import ChannelInput
from dgq.inference.integer_layer import IntegerLayer, fold
from dgq.inference.layers import PackedLayer
from dgq.inference.products import Products
from dgq.inference.products.cpu import CpuProducts
from dgq.math.exponents import spare_activation_bits, spare_weight_bits
from dgq.math.multiples import possible_multiples
from dgq.math.packing import pack_codes
from dgq.ops import cpu
from dgq.settings import WeightSettings
from dgq.unet.calls import Call, SamplerCalls

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)

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
    calls.current = Call(step, (8, 8))
    channels = geometry.in_channels
    quantizer = ChannelInput(n_bits, calls, channels, room=formats["room"])
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


@given(
    geometry=st.one_of(linears, convolutions),
    formats=formats(),
    steps=st.one_of(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.just([1])),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
@torch.no_grad()
def test_an_integer_layer_equals_the_packed_one_and_holds_its_codes(
    geometry: Geometry, formats: dict[str, Any], steps: list[int], bias: bool, seed: int
) -> None:
    if isinstance(geometry, ConvGeometry):
        reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, geometry.kernel, strict=True)]
        assert max(reach) <= 5
    packed = packed_layer(geometry, formats, torch.tensor(steps), seed, bias)
    x = random_input(geometry, 3, seed)
    expected, state = packed(x), packed.state_dict()
    layer = integer_layer(packed)
    found = layer(x)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    # The bias takes back what zero points add, which may be much larger than the output.
    size = max(float(expected.norm()), float(layer.folded_bias.abs().max()))
    assert float((found - expected).norm()) < 1e-4 * max(size, 1e-6)
    again = layer.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("n_bits", range(2, 9))
@pytest.mark.parametrize(
    "geometry",
    [LinearGeometry(37, 5), ConvGeometry(5, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1)],
    ids=["linear", "conv"],
)
@torch.no_grad()
def test_all_bits_are_exact_with_rows_of_different_steps(n_bits: int, geometry: Geometry) -> None:
    formats = {
        "weights": WeightSettings(n_bits, symmetric=True),
        "activation_bits": n_bits,
        "room": 8 - n_bits,
        "per_tensor": False,
        "per_step": True,
    }
    packed = packed_layer(geometry, formats, torch.tensor([2, 0, 1]), n_bits)
    x = random_input(geometry, 3, 0)
    expected = packed(x)
    together = integer_layer(packed)(x)
    assert relative(together, expected) < 1e-5
    assert isinstance(packed.input_quantizer, ChannelInput)
    for row, step in enumerate([2, 0, 1]):
        packed.input_quantizer.calls.current = Call(torch.tensor([step]), (8, 8))
        alone = integer_layer(packed)(x[row : row + 1])
        assert relative(alone[0], together[row]) < 1e-5


@torch.no_grad()
def test_two_dimensional_inputs_and_empty_batches_keep_their_shape() -> None:
    formats = {
        "weights": WeightSettings(4),
        "activation_bits": 8,
        "room": 2,
        "per_tensor": False,
        "per_step": True,
    }
    packed = packed_layer(LinearGeometry(6, 5), formats, torch.tensor([1]), 0)
    x = torch.randn(3, 6)
    expected = packed(x)
    layer = integer_layer(packed)
    assert relative(layer(x), expected) < 1e-5
    assert layer(x[None, None]).shape == (1, 1, 3, 5)


def test_sums_that_do_not_fit_into_32_bits_are_not_made() -> None:
    weight = torch.ones(2, 2, dtype=torch.int32)
    assert fits(weight * 127, 65_000)
    assert not fits(weight * 127, 66_000)
    assert not fits(weight * 128, 4)
    assert fits(weight * -128, 4)


def test_a_gradient_is_refused_rather_than_lost() -> None:
    formats = {
        "weights": WeightSettings(4),
        "activation_bits": 8,
        "room": 0,
        "per_tensor": True,
        "per_step": False,
    }
    layer = integer_layer(packed_layer(LinearGeometry(6, 5), formats, torch.tensor([0]), 0))
    with pytest.raises(DGQError, match="execution='float'"):
        layer(torch.randn(1, 2, 6, requires_grad=True))
