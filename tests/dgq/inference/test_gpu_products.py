"""Layers and UNets with the products of a GPU, on tensors of a CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dgq
from dgq.inference import execution
from dgq.inference.group_norm import GroupNormByPixels
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.products import products_of
from dgq.inference.products.gpu_weights import ByteWeight, NibbleWeight
from dgq.inference.weight_only_layer import WeightOnlyLayer
from dgq.ops import cpu, gpu, triton
from dgq.settings import WeightSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.geometry import ConvGeometry, Geometry, LinearGeometry
from tests.compiled_graphs import output_and_operators
from tests.quantized_models import Calibrated, decibels
from tests.random_layers import (
    convolutions,
    formats,
    integer_layer,
    linears,
    packed_layer,
    random_input,
)
from tests.triton_kernels import ProductsHere, Tile, kernels_for_cpu_tensors

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)
Models = Callable[[str], Calibrated]
GPU = ProductsHere()


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNets are prepared as they would be on a GPU, and norms refuse what CUDA's refuse."""
    monkeypatch.setattr(execution, "products_of", lambda _: (GPU, None))
    monkeypatch.setattr(execution, "norm_dtype", lambda _, dtype: dtype)
    for name in ("group_norm", "layer_norm"):
        monkeypatch.setattr(F, name, of_one_dtype(getattr(F, name)))


def of_one_dtype(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A norm as CUDA has it."""

    def refusing(x: Tensor, shape: Any, weight: Tensor | None = None, *rest: Any) -> Tensor:
        if weight is not None and weight.dtype != x.dtype:
            raise RuntimeError(f"expected scalar type {x.dtype} but found {weight.dtype}")
        return norm(x, shape, weight, *rest)

    return refusing


@given(
    geometry=st.one_of(linears, convolutions),
    formats=formats(),
    steps=st.one_of(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.just([1])),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_a_layer_equals_that_of_the_cpu_and_holds_its_codes(
    geometry: Geometry, formats: dict[str, Any], steps: list[int], bias: bool, seed: int
) -> None:
    packed = packed_layer(geometry, formats, torch.tensor(steps), seed, bias)
    x = random_input(geometry, 3, seed)
    expected = integer_layer(packed)
    size = max(float(expected(x).norm()), float(expected.folded_bias.abs().max()), 1e-6)
    expected, state = expected(x), packed.state_dict()
    layer = integer_layer(packed, GPU)
    assert isinstance(layer.kernel_weight, NibbleWeight if layer.weight_bits <= 4 else ByteWeight)
    assert float((layer(x) - expected).norm()) < 1e-5 * size
    again = layer.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("n_bits", [4, 8])
@pytest.mark.parametrize(
    "geometry",
    [LinearGeometry(37, 5), ConvGeometry(6, 4, (3, 3), (2, 1), (1, 1), (1, 1), 2)],
    ids=["linear", "conv"],
)
@torch.no_grad()
def test_kernels_compute_what_the_cpu_does(n_bits: int, geometry: Geometry) -> None:
    spare = (8 - n_bits) // 2
    bits = {
        "weights": WeightSettings(n_bits, symmetric=True, group_size=8, max_exponent=spare),
        "activation_bits": 8,
        "room": spare,
        "per_tensor": False,
        "per_step": True,
    }
    packed = packed_layer(geometry, bits, torch.tensor([2, 0, 1]), n_bits)
    x = random_input(geometry, 3, 0)
    expected = integer_layer(packed)(x)
    layer = integer_layer(packed, GPU)
    with kernels_for_cpu_tensors() as called:
        found = layer(x)
    assert called[0] == "quantize"
    assert called[1].endswith("packed") == (n_bits == 4)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def on_cpu(model: Calibrated) -> Any:
    """The UNet in integers, where the CPU multiplies them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(execution, "products_of", products_of)
        return load_quantized_unet(model.folder, "auto", torch.float32)


def agreement(one: Any, other: Any, call: dict[str, Any]) -> list[float]:
    """Decibels to which two UNets agree on three inputs.

    A value between two codes may round either way, which leaves some 40 dB.
    """
    samples = (call["sample"].roll(shift, -1) for shift in range(3))
    calls = [call | {"sample": sample} for sample in samples]
    return [decibels(one(**each)[0], other(**each)[0]) for each in calls]


@pytest.mark.parametrize("name", ["exponents", "multiples", "w8a8 symmetric", "absorbed", "mixed"])
@torch.no_grad()
def test_a_unet_computes_what_it_does_on_a_cpu(
    name: str, calibrated_as: Models, on_gpu: None
) -> None:
    model = calibrated_as(name)
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    found = agreement(on_cpu(model), unet, model.call)
    assert max(found) > 60
    assert min(found) > 30
    kinds = [type(m.kernel_weight) for m in unet.modules() if isinstance(m, IntegerLayer)]
    assert len(kinds) == unet.execution.integer_layers > 0
    assert (unet.execution.device, unet.execution.attention) == ("GPU", "torch")
    assert (NibbleWeight in kinds, ByteWeight in kinds) == {
        "w8a8 symmetric": (False, True),
        "absorbed": (False, True),
        "mixed": (True, True),
    }.get(name, (True, False))


@pytest.mark.slow
@torch.no_grad()
def test_the_kernels_run_a_whole_unet(calibrated_as: Models, on_gpu: None) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    call = {
        name: tensor[:1] if torch.is_tensor(tensor) and tensor.ndim else tensor
        for name, tensor in model.call.items()
    }
    expected = unet(**call)[0]
    with kernels_for_cpu_tensors(Tile(64, 64, 64)) as called:
        found = unet(**call)[0]
    assert len(called) > unet.execution.integer_layers
    assert decibels(expected, found) > 100


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_unet_quantizes_in_plain_torch(calibrated_as: Models, on_gpu: None) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    expected = unet(**model.call)[0]
    output, operators = output_and_operators(unet, model.call)
    assert decibels(expected, output) > 60
    assert {"dgq.int_conv2d_packed", "dgq.pad"} <= {*operators}
    assert "dgq.quantize" not in operators


@torch.no_grad()
def test_weights_alone_quantized_stay_packed(
    calibrated_as: Models, on_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = calibrated_as("w4a16")
    unet: Any = load_quantized_unet(model.folder, "auto", torch.float16)
    alone = [m for m in unet.modules() if isinstance(m, WeightOnlyLayer)]
    text = "activations in floating point, weights unpacked as they are multiplied"
    assert unet.execution.float_layers == {text: len(alone)}
    assert unet.execution.integer_layers == 0
    stored = unet.state_dict()
    assert decibels(model.output, unet(**model.call)[0]) > 45
    layer = next(m for m in alone if isinstance(m.geometry, LinearGeometry))
    x = torch.randn(2, 3, layer.geometry.in_channels)
    unet.execution = execution.prepare_(unet, "float")
    assert not any(isinstance(m, WeightOnlyLayer) for m in unet.modules())
    again = unet.state_dict()
    assert all(torch.equal(again[name], stored[name]) for name in again if name.endswith(".codes"))
    # In float32, and where gradients are wanted, a layer computes as its stored form does: on a GPU
    # the kernels take neither.
    monkeypatch.setattr(NibbleWeight, "multiply_float", None)
    plain = layer.unfolded()
    assert torch.equal(layer(x), plain(x))
    with torch.enable_grad():
        half = x.half().requires_grad_()
        layer(half).sum().backward()
        assert half.grad is not None


@torch.no_grad()
def test_a_unet_is_prepared_where_it_arrives(
    calibrated_as: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.float32)
    before, on_cpu = unet(**model.call)[0], unet.execution
    unet.execution.before_move_(unet)
    assert not any(isinstance(m, IntegerLayer) for m in unet.modules())
    with monkeypatch.context() as patched, caplog.at_level("INFO", "dgq"):
        patched.setattr(execution, "products_of", lambda _: (GPU, None))
        unet.execution.after_move_(unet)
    assert "moved: " in caplog.text
    assert unet.execution.device == "GPU"
    assert unet.execution.integer_layers == on_cpu.integer_layers
    assert (unet.execution.mode, unet.execution.dtype) == ("integer", "float32")
    assert decibels(before, unet(**model.call)[0]) > 60
    unet.execution.before_move_(unet)
    unet.execution.after_move_(unet)
    assert unet.execution == on_cpu
    assert torch.equal(unet(**model.call)[0], before)


@torch.no_grad()
def test_norms_have_the_dtype_of_their_input(calibrated_as: Models, on_gpu: None) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "integer", torch.bfloat16)
    assert decibels(model.output, unet(**model.call)[0]) > 20
    unet.execution.run_in_float_(unet)  # layers in floating point, on whatever device comes
    assert decibels(model.output, unet(**model.call)[0]) > 20


@torch.no_grad()
def test_norms_are_stock_ones_where_layers_are(calibrated_as: Models, on_gpu: None) -> None:
    unet: Any = load_quantized_unet(calibrated_as("multiples").folder, "integer", torch.bfloat16)

    def norms(unet: Any) -> set[type]:
        return {type(module) for module in unet.modules() if isinstance(module, nn.GroupNorm)}

    assert norms(unet) == {GroupNormByPixels}
    assert norms(dgq.dequantize(unet)) == {nn.GroupNorm}
    unet.execution.before_move_(unet)
    assert norms(unet) == {nn.GroupNorm}


def test_norms_that_arrive_have_the_dtype_of_their_input(
    calibrated_as: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet: Any = load_quantized_unet(calibrated_as("multiples").folder, "float", torch.bfloat16)
    norms = [m for m in unet.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm)]
    assert {norm.weight.dtype for norm in norms} == {torch.float32}
    with monkeypatch.context() as patched:
        patched.setattr(execution, "norm_dtype", lambda _, dtype: dtype)  # as on a GPU
        unet.execution.after_move_(unet)
    assert {norm.weight.dtype for norm in norms} == {torch.bfloat16}
    unet.execution.after_move_(unet)
    assert {norm.weight.dtype for norm in norms} == {torch.float32}


def test_a_unet_that_is_offloaded_stays_in_floating_point(calibrated_as: Models) -> None:
    unet: Any = load_quantized_unet(calibrated_as("multiples").folder, "integer")
    n_layers = unet.execution.integer_layers
    unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), num_blocks_per_group=1)
    assert unet.execution.float_layers["tensors are moved one by one"] == n_layers
    assert (unet.execution.mode, unet.execution.integer_layers) == ("float", 0)
    arrived = unet.execution
    arrived.after_move_(unet)
    assert unet.execution is arrived


def test_a_machine_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.why_not.cache_clear()
    monkeypatch.setattr(gpu, "has_triton", lambda: False)
    found = gpu.why_not(torch.device("cuda"))
    gpu.why_not.cache_clear()
    assert found == "no integer kernels for cuda without Triton (pip install dgq[triton])"


@pytest.mark.parametrize("outcome", ["exact", "wrong", "fails"])
def test_kernels_are_tried_before_they_are_used(
    outcome: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def tried(_: torch.device) -> bool:
        if outcome == "fails":
            raise RuntimeError("no C compiler\nmore")
        return outcome == "exact"

    gpu.why_not.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(gpu, "products_are_exact", tried)
    found = gpu.why_not(torch.device("cuda"))
    gpu.why_not.cache_clear()
    assert (
        found
        == {
            "exact": None,
            "wrong": "Triton's integer products are not exact here",
            "fails": "Triton's kernels do not run here (no C compiler)",
        }[outcome]
    )
    assert ("no C compiler" in caplog.text) == (outcome == "fails")


def test_the_trial_is_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.products_are_exact(torch.device("cpu"))
    right = triton.int_linear
    monkeypatch.setattr(triton, "int_linear", lambda *a, **k: right(*a, **k).clamp(max=2**20))
    assert not gpu.products_are_exact(torch.device("cpu"))


def test_a_gpu_older_than_ampere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.why_not.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "T4")
    found = gpu.why_not(torch.device("cuda"))
    gpu.why_not.cache_clear()
    assert found == "no integer kernels for T4, older than Ampere"


def test_a_layer_laid_out_for_a_device_is_not_moved_alone(
    calibrated_as: Models, on_gpu: None
) -> None:
    unet = load_quantized_unet(calibrated_as("multiples").folder, "integer")
    layer = next(m for m in unet.modules() if isinstance(m, IntegerLayer))
    with pytest.raises(execution.DGQError, match="move the whole UNet"):
        nn.Module.to(layer, "meta")
