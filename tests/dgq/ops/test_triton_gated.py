"""A linear layer, its GEGLU and the quantization behind them as one kernel."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgq.inference.products.gpu_weights import ByteWeight, NibbleWeight
from dgq.ops import reference, triton
from dgq.ops.copy_engine import has_copy_engine
from dgq.ops.triton import gated
from dgq.ops.triton.tiles import Tile
from dgq.settings import WeightSettings
from dgq.unet.geometry import LinearGeometry
from tests.random_layers import integer_layer, packed_layer
from tests.triton_kernels import DEVICE, ProductsHere

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and torch.cuda.get_device_capability() < (9, 0), reason="has no copy engine"
)
TILE = Tile(16, 16, 16)
FORMATS: dict[int, dict[str, Any]] = {
    n_bits: {
        "weights": WeightSettings(n_bits, symmetric=True),
        "activation_bits": 8,
        "room": 0,
        "per_tensor": False,
        "per_step": True,
    }
    for n_bits in (4, 8)
}


def drawn(shape: tuple[int, ...], out: int, n_steps: int, own_steps: bool, seed: int) -> list[Any]:
    """Operands of the operator."""
    generator = torch.Generator().manual_seed(seed)

    def real(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator) + 0.1

    def whole(low: int, high: int, *size: int) -> torch.Tensor:
        return torch.randint(low, high, size, generator=generator)

    tensors = [
        *(whole(-128, 128, *shape).to(torch.int8), whole(-128, 128, 2 * out, shape[-1])),
        *(real(2 * out) / 2000, real(n_steps), real(n_steps, 2 * out) - 0.6),
        whole(0, n_steps, shape[0] if own_steps else 1),
        *(real(n_steps) / 8, whole(1, 5, out).float()),
        *(whole(0, 256, n_steps, out).to(torch.int16), torch.ones(out)),
    ]
    tensors[1] = tensors[1].to(torch.int8)
    return [*tensors, 255, 128]


def here(operands: list[Any]) -> list[Any]:
    return [o.to(DEVICE) if isinstance(o, torch.Tensor) else o for o in operands]


def assert_codes(found: torch.Tensor, operands: list[Any]) -> None:
    """Equal those of the reference, but where a quotient is in the middle between two."""
    expected = reference.int_linear_gated(*operands)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    different = (found.cpu().int() - expected.int()).abs()
    assert int(different.max()) <= 1
    assert int(different.sum()) <= 1 + different.numel() // 1000


@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.sampled_from([16, 48])),
        st.tuples(st.integers(1, 40), st.sampled_from([32])),
    ),
    out=st.sampled_from([16, 32, 80]),
    n_steps=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_codes_are_those_of_three_operators(
    shape: tuple[int, ...], out: int, n_steps: int, seed: int
) -> None:
    operands = drawn(shape, out, n_steps, False, seed)
    assert gated._suits(operands[0], operands[1], operands[8], operands[-1])
    found = triton.int_linear_gated(*here(operands), TILE)
    assert_codes(found, operands)
    assert found.unique().numel() > 3


@pytest.mark.parametrize(
    ("shape", "out", "own_steps"),
    [((3, 4, 16), 16, True), ((2, 4, 20), 16, False), ((2, 4, 16), 8, False), ((0, 16), 16, False)],
)
def test_what_the_kernel_cannot_do_is_done_in_two_steps(
    shape: tuple[int, ...], out: int, own_steps: bool
) -> None:
    operands = drawn(shape, out, 2, own_steps, 0)
    expected = reference.int_linear_gated(*here(operands))
    assert torch.equal(triton.int_linear_gated(*here(operands), TILE), expected)


def test_the_operators_are_good_citizens() -> None:
    operands = drawn((2, 3, 16), 16, 2, True, 0)
    torch.library.opcheck(torch.ops.dgq.int_linear_gated.default, tuple(operands))
    weight = packed_layer(LinearGeometry(20, 6), FORMATS[4], torch.tensor([1]), 0)
    layer = integer_layer(weight, ProductsHere())
    assert isinstance(layer.kernel_weight, NibbleWeight)
    packed = (*layer.kernel_weight.packed, 20)
    torch.library.opcheck(torch.ops.dgq.unpack.default, packed)
    whole = torch.ops.dgq.unpack(*packed)
    assert torch.equal(whole.flatten(1), layer.kernel_weight.whole_numbers())
    assert torch.equal(triton.unpack(*here(list(packed))).cpu(), whole)


class GatesHere(ProductsHere):
    """Of a GPU with a copy engine, on tensors of a CPU."""

    copies_boxes = True


@pytest.mark.parametrize("n_bits", [4, 8])
@pytest.mark.parametrize("steps", [[1], [0, 2, 1]])
@torch.no_grad()
def test_layers_use_it_where_all_samples_are_at_one_step(
    n_bits: int, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.tensor(steps)
    first = packed_layer(LinearGeometry(16, 64), FORMATS[n_bits], step, 0)
    second = packed_layer(LinearGeometry(32, 8), FORMATS[n_bits], step, 1)
    used: list[str] = []
    right = torch.ops.dgq.int_linear_gated
    monkeypatch.setattr(
        "dgq.inference.products.whole_weight.int_linear_gated",
        lambda *operands: used.append("gated") or right(*operands),
    )
    products = GatesHere()
    gate, last = integer_layer(first, products), integer_layer(second, products)
    assert isinstance(gate.kernel_weight, NibbleWeight if n_bits == 4 else ByteWeight)
    x = torch.randn(3, 5, 16)
    found = gate.gated(x, last.input_quantizer)
    value, gates = gate(x).chunk(2, -1)
    expected = last.input_quantizer.codes(value * torch.nn.functional.gelu(gates))
    assert bool(used) == (len(steps) == 1)
    assert (found.codes.int() - expected.codes.int()).abs().sum() <= 1
    assert found.codes.dtype == torch.int8


@pytest.mark.parametrize(("major", "gates"), [(8, False), (9, True), (10, True), (12, False)])
def test_gpus_with_a_copy_engine_gate_in_the_product(
    major: int, gates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dgq.inference.products.gpu import GpuProducts

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    has_copy_engine.cache_clear()
    try:
        assert GpuProducts(torch.device("cuda")).copies_boxes is gates
        assert has_copy_engine(torch.device("cuda")) is gates
    finally:
        has_copy_engine.cache_clear()
