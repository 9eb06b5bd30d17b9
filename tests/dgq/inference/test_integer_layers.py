"""Layers that multiply integers against the same layers in floating point."""

from math import prod
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.errors import DGQError
from dgq.inference.channel_input import ChannelInput
from dgq.inference.folding import fits
from dgq.inference.products.cpu import CpuProducts, OneDNNWeight, TiledWeight
from dgq.inference.products.whole_weight import PlainWeight, WholeWeight
from dgq.inference.quantized_tensor import QuantizedTensor
from dgq.ops import cpu
from dgq.settings import WeightSettings
from dgq.unet.calls import SamplerCall
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry
from tests.random_layers import (
    convolutions,
    formats,
    integer_layer,
    linears,
    packed_layer,
    random_input,
    relative,
)

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)


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
    # In floating point, products that cancel leave a remainder.
    products = float(x.abs().max()) * float(packed.operands()[0].abs().flatten(1).sum(1).max())
    assert float((found - expected).norm()) < 1e-4 * max(size, 1e-6) + 1e-6 * products
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
        packed.input_quantizer.calls.current = SamplerCall(torch.tensor([step]), (8, 8))
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


@pytest.fixture
def without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without AMX."""
    monkeypatch.setattr(cpu, "has_tile_products", lambda: False)


@pytest.mark.usefixtures("without_tiles")
@pytest.mark.parametrize(("largest", "kind"), [(63, PlainWeight), (64, OneDNNWeight)])
def test_weights_larger_than_onednn_adds_up_are_our_kernels(
    largest: int, kind: type[WholeWeight], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "largest_weight_of_onednn", lambda: largest)
    layer: Any = SimpleNamespace(geometry=LinearGeometry(4, 2))
    folded = torch.tensor([[1, 2, 3, 63], [-64, 0, 1, 2]], dtype=torch.int8)
    weight = CpuProducts().weight(layer, folded, torch.ones(4))
    assert type(weight) is kind
    assert torch.equal(weight.whole_numbers(), folded)


@pytest.mark.usefixtures("without_tiles")
@pytest.mark.parametrize(("stride", "kind"), [(2, OneDNNWeight), (4, PlainWeight)])
def test_convolutions_with_long_strides_are_our_kernels(
    stride: int, kind: type[WholeWeight], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "largest_weight_of_onednn", lambda: 128)
    # oneDNN 3.12 makes this convolution wrongly on AMX, if its stride is 4.
    geometry = ConvGeometry(32, 3, (6, 4), (stride, stride), (0, 0), (3, 1), 1)
    generator = torch.Generator().manual_seed(0)
    folded = torch.randint(-64, 65, (3, 32 * 6 * 4), generator=generator).to(torch.int8)
    layer: Any = SimpleNamespace(geometry=geometry)
    weight = CpuProducts().weight(layer, folded, torch.ones(32))
    assert type(weight) is kind
    codes = torch.randint(0, 256, (1, 23, 16, 32), generator=generator).byte()
    tables = (torch.ones(1), torch.tensor([0]), torch.float32)
    found = weight.multiply(QuantizedTensor(codes, *tables), torch.ones(3), torch.zeros(1, 3))
    planes, kernels = codes.permute(0, 3, 1, 2).double(), folded.view(geometry.weight_shape)
    expected = F.conv2d(planes, kernels.double(), None, (stride, stride), 0, (3, 1))
    assert torch.equal(found.double(), expected.permute(0, 2, 3, 1))


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


@pytest.mark.parametrize("has_tiles", [False, True])
@pytest.mark.parametrize(
    "geometry",
    [
        LinearGeometry(70, 18),
        ConvGeometry(70, 18, (3, 2), (1, 2), (0, 0), (1, 1), 1),
        ConvGeometry(70, 18, (3, 2), (1, 2), (0, 0), (1, 1), 2),
    ],
)
def test_cpus_with_amx_multiply_tiles_of_all_layers_without_groups(
    geometry: LinearGeometry | ConvGeometry, has_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "has_tile_products", lambda: has_tiles)
    generator = torch.Generator().manual_seed(0)
    n = prod(geometry.weight_shape[1:])
    folded = torch.randint(-63, 64, (18, n), generator=generator).to(torch.int8)
    layer: Any = SimpleNamespace(geometry=geometry)
    weight = CpuProducts().weight(layer, folded, torch.ones(70))
    in_groups = isinstance(geometry, ConvGeometry) and geometry.groups > 1
    assert (type(weight) is TiledWeight) == (has_tiles and not in_groups)
    assert torch.equal(weight.whole_numbers(), folded)
    codes = torch.randint(0, 256, (2, 5, 6, 70), generator=generator).byte()
    tables = (torch.ones(1), torch.tensor([0]), torch.float32)
    found = weight.multiply(QuantizedTensor(codes, *tables), torch.ones(18), torch.zeros(1, 18))
    matrix = folded.double()
    if isinstance(geometry, ConvGeometry):
        planes, kernels = codes.permute(0, 3, 1, 2).double(), matrix.view(geometry.weight_shape)
        expected = F.conv2d(planes, kernels, None, geometry.stride, groups=geometry.groups)
        expected = expected.permute(0, 2, 3, 1)
    else:
        expected = codes.double() @ matrix.t()
    assert torch.equal(found.double(), expected)
