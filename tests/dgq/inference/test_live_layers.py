"""Integer layers whose input has scales of each sample, against the same in floating point."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.inference.folding import fits
from dgq.inference.integer_layer import fold
from dgq.inference.layers import PackedLayer
from dgq.inference.live_input import LiveInput
from dgq.inference.live_layer import LiveLayer
from dgq.inference.products import Products
from dgq.inference.products.gpu import GpuProducts
from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.calls import SamplerCalls
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry
from tests.quantized_models import SETTINGS
from tests.random_layers import (
    CPU,
    convolutions,
    formats,
    linears,
    packed_layer,
    random_input,
)

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)


def live(
    packed: PackedLayer, gain: float, shift: int, products: Products = CPU
) -> tuple[PackedLayer, LiveLayer]:
    """A packed layer that reads live ranges, and the same in integers."""
    old = packed.input_quantizer
    quantizer = LiveInput(old.n_bits, old.calls, old.channels, max_exponent=old.max_exponent)
    quantizer.store("multiple", old.multiple)
    quantizer.store("scale", torch.tensor([gain]))
    zero_point = torch.full((1, old.multiple.numel()), shift, dtype=torch.int16)
    quantizer.store("zero_point", zero_point)
    assert quantizer.problem() is None
    packed.input_quantizer = quantizer
    channels = packed.geometry.in_channels
    weight = fold(packed, quantizer.factors(channels)[1])
    assert weight is not None
    assert fits(weight.int(), packed.fan_in)
    quantizer.prepare_(channels, products)
    return packed, LiveLayer(packed, quantizer, weight, products)


@given(
    geometry=st.one_of(linears, convolutions),
    formats=formats(),
    gain=st.sampled_from([1.0, 0.7]),
    shift=st.integers(-1, 1),
    bias=st.booleans(),
    on_gpu=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
@torch.no_grad()
def test_an_integer_layer_equals_the_packed_one(
    geometry: Geometry,
    formats: dict[str, Any],
    gain: float,
    shift: int,
    bias: bool,
    on_gpu: bool,
    seed: int,
) -> None:
    formats = formats | {"per_tensor": False}
    packed = packed_layer(geometry, formats, torch.tensor([0]), seed, bias)
    products = GpuProducts(torch.device("cpu")) if on_gpu else CPU
    packed, layer = live(packed, gain, shift, products)
    x = random_input(geometry, 3, seed) * torch.tensor([1.0, 20.0, 0.1]).view(
        -1, *[1] * (3 if isinstance(geometry, ConvGeometry) else 2)
    )
    expected, found = packed(x), layer(x)
    assert found.dtype == torch.float32
    for one, other, row in zip(found, expected, x, strict=True):
        quantized = packed.input_quantizer(row[None])
        # What zero points add is taken back, and may be much larger than the output.
        size = float(quantized.abs().amax()) * float(packed.operands()[0].abs().sum(1).amax())
        assert float((one - other).abs().max()) <= 1e-4 * max(size, 1e-6)
    again, state = layer.state_dict(), packed.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@torch.no_grad()
def test_a_vector_for_each_sample_counts_as_one_channel() -> None:
    formats = {
        "weights": SETTINGS["live"].weights,
        "activation_bits": 6,
        "room": 4,
        "per_tensor": True,
        "per_step": False,
    }
    packed, layer = live(packed_layer(LinearGeometry(40, 5), formats, torch.tensor([0]), 0), 1.0, 0)
    x = torch.randn(3, 40)
    torch.testing.assert_close(layer(x), packed(x), rtol=1e-4, atol=1e-4)


def test_the_gain_is_one_for_all_steps() -> None:
    quantizer = LiveInput(6, SamplerCalls((2.0, 1.0), (8, 8)), 4)
    quantizer.store("scale", torch.ones(2))
    quantizer.store("zero_point", torch.zeros(2, 4, dtype=torch.int16))
    quantizer.store("multiple", torch.ones(4, dtype=torch.int16))
    assert "2 rows of scales" in (quantizer.problem() or "")
    quantizer.store("scale", torch.tensor(1.0))
    assert "number of dimensions" in (quantizer.problem() or "")


@torch.no_grad()
def test_a_sampler_that_was_not_calibrated_is_nothing_to_warn_of(
    calibrated_as: Any, recwarn: pytest.WarningsRecorder
) -> None:
    model = calibrated_as("live")
    unet = load_quantized_unet(model.folder)
    unet(**model.at(333.0))
    assert not [w for w in recwarn if "calibrated timestep" in str(w.message)]
    other = load_quantized_unet(calibrated_as("multiples").folder)
    with pytest.warns(UserWarning, match="nearest calibrated timestep"):
        other(**model.at(333.0))


@torch.no_grad()
def test_a_sample_does_not_depend_on_those_beside_it(calibrated_as: Any) -> None:
    model = calibrated_as("live")
    unet = load_quantized_unet(model.folder, "integer", torch.float32)
    together = unet(**model.call)[0]
    call = {
        n: v[:1] if isinstance(v, torch.Tensor) and v.ndim else v for n, v in model.call.items()
    }
    alone = unet(**call)[0]
    assert float((alone - together[:1]).norm()) < 1e-2 * float(alone.norm())
