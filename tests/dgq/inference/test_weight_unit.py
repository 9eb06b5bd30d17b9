"""4-bit weights of a part of a UNet, unpacked together where a GPU has a copy engine."""

import copy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dgq.errors import DGQError
from dgq.inference import execution, laying_out, weight_unit
from dgq.inference.execution import prepare_
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.products.gpu_weights import NibbleWeight
from dgq.inference.weight_unit import MOST_BYTES, WeightUnit, unit_of
from dgq.inspection.memory import resident_bytes
from dgq.ops import cpu
from dgq.unet.geometry import ConvGeometry
from tests.compiled_graphs import output_and_operators
from tests.triton_kernels import ProductsHere, Tile, kernels_for_cpu_tensors
from tests.wide_unets import call_of, wide_unet

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)
SMALL = 120_000
"""Bytes of which blocks of the UNet have more, and most of their modules less."""

OF_FEED_FORWARD = 50_000
"""Bytes of which a feed-forward block has less, and the transformer around it more."""


class Hopper(ProductsHere):
    """Of a GPU with a copy engine, on tensors of a CPU."""

    copies_boxes = True


@pytest.fixture(autouse=True)
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNets are prepared as they would be there."""
    monkeypatch.setattr(execution, "products_of", lambda _: (Hopper(), None))


def united(monkeypatch: pytest.MonkeyPatch, most_bytes: int = MOST_BYTES) -> Any:
    """A UNet whose weights are unpacked together, up to a number of bytes."""
    with monkeypatch.context() as patched:
        patched.setattr(weight_unit, "MOST_BYTES", most_bytes)
        unet = wide_unet()
        prepare_(unet, "integer", torch.float32)
    return unet


def apart(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same UNet, whose weights are unpacked one by one."""
    with monkeypatch.context() as patched:
        patched.setattr(laying_out, "unite_", lambda _: None)
        unet = wide_unet()
        prepare_(unet, "integer", torch.float32)
    return unet


def units_of(unet: nn.Module) -> dict[str, WeightUnit]:
    units = {name: unit_of(module) for name, module in unet.named_modules()}
    return {name: unit for name, unit in units.items() if unit is not None}


def all_weights(unet: nn.Module) -> list[NibbleWeight]:
    """Of all layers and joint products."""
    layers = [m for m in unet.modules() if isinstance(m, IntegerLayer)]
    joint: list[Any] = [layer.joint.weight for layer in layers if layer.joint is not None]  # type: ignore[attr-defined]
    return [*(layer.kernel_weight for layer in layers), *joint]  # type: ignore[list-item]


class Operators(TorchDispatchMode):
    """Counts operators of this project."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("dgq."):
            self.count[name.removeprefix("dgq.").removesuffix(".default")] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def output_and_count(unet: Any, call: dict[str, Any]) -> tuple[Tensor, Counter[str]]:
    with Operators() as operators:
        output = unet(**call)[0]
    return output, operators.count


@torch.no_grad()
def test_outputs_state_and_memory_are_those_of_weights_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected_unet = apart(monkeypatch)
    calls = [call_of(expected_unet, seed) for seed in range(2)]
    calls[1]["timestep"] = torch.tensor([801.0, 1.0])  # each sample at its own step
    expected = [output_and_count(expected_unet, call) for call in calls]
    assert all(output.isfinite().all() for output, _ in expected)
    assert "unpack_all" not in expected[0][1]
    state = expected_unet.state_dict()
    for most_bytes in (MOST_BYTES, SMALL):
        unet = united(monkeypatch, most_bytes)
        units = units_of(unet).values()
        for call, (output, before) in zip(calls, expected, strict=True):
            found, count = output_and_count(unet, call)
            assert torch.equal(found, output)
            assert count["unpack_all"] == len(units)
            n_together = sum(len(unit.weights) for unit in units)
            alone = ("int_conv2d_packed", "unpack")
            saved = sum(before[name] - count[name] for name in alone)
            assert saved == n_together
        assert all(weight.unpacked is None for weight in all_weights(unet))
        found_state = unet.state_dict()
        assert found_state.keys() == state.keys()
        assert all(torch.equal(found_state[name], state[name]) for name in state)
        tables = sum(4 * (u.packed.layers.numel() + u.packed.programs.numel()) for u in units)
        more = resident_bytes(unet) - resident_bytes(expected_unet)
        assert tables <= more <= tables + 15 * 4 * n_together


def test_units_are_the_largest_modules_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = units_of(united(monkeypatch))
    assert set(blocks) == {
        *("time_embedding", "down_blocks.0", "down_blocks.1", "mid_block"),
        *("up_blocks.0", "up_blocks.1"),
    }
    parts = units_of(united(monkeypatch, SMALL))
    assert "down_blocks.0" in parts
    assert {"mid_block.attentions.0", "mid_block.resnets.0", "mid_block.resnets.1"} < set(parts)
    assert not any(name.endswith(("attentions", "resnets")) for name in parts)
    assert all(unit.packed.n_bytes <= SMALL for unit in parts.values())
    for unit in (*blocks.values(), *parts.values()):
        assert len(unit.weights) >= 2
        sizes = [2 * weight.packed.codes.numel() for weight, _ in unit.weights]
        assert sum(sizes) <= unit.packed.n_bytes < sum(sizes) + 128 * len(sizes)
    # No layer is in two units: views of the codes of one.
    weights = [id(weight) for unit in parts.values() for weight, _ in unit.weights]
    assert len(weights) == len(set(weights))


def test_only_devices_with_a_copy_engine_have_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hopper, "copies_boxes", False)
    assert units_of(united(monkeypatch)) == {}
    monkeypatch.undo()
    unet = wide_unet()
    prepare_(unet, "integer", torch.float32)
    assert unet.execution.device == "CPU"
    assert units_of(unet) == {}


@torch.no_grad()
def test_a_layer_outside_of_its_module_unpacks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, expected = united(monkeypatch), apart(monkeypatch)
    for name in ("mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in"):
        layer, other = unet.get_submodule(name), expected.get_submodule(name)
        conv = isinstance(layer.geometry, ConvGeometry)
        x = torch.randn(2, layer.geometry.in_channels, *((8, 8) if conv else ()))
        with Operators() as operators:
            found = layer(x)
        assert torch.equal(found, other(x))
        assert operators.count["int_conv2d_packed"] == 1


@torch.no_grad()
def test_what_was_unpacked_is_forgotten_when_a_module_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unet = united(monkeypatch)
    call = call_of(unet)
    expected = unet(**call)[0]

    def fail(*_: Any) -> None:
        held = [weight.unpacked is not None for weight in all_weights(unet)]
        assert any(held)
        with ThreadPoolExecutor(1) as other:  # which runs no module, or another call
            weights = all_weights(unet)
            assert other.submit(lambda: [w.unpacked for w in weights]).result() == [
                None for _ in weights
            ]
        raise RuntimeError("out of memory")

    handle = unet.mid_block.attentions[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        unet(**call)
    assert all(weight.unpacked is None for weight in all_weights(unet))
    handle.remove()
    assert torch.equal(unet(**call)[0], expected)


@torch.no_grad()
def test_what_happens_to_a_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = united(monkeypatch)
    call = call_of(unet)
    expected, count = output_and_count(unet, call)
    twin = copy.deepcopy(unet)
    seen: list[Any] = []
    unet.mid_block.register_forward_pre_hook(lambda *_: seen.append(None))
    prepare_(unet, "float")
    assert units_of(unet) == {}
    assert not unet.mid_block._forward_hooks_always_called
    unet(**call)
    assert len(seen) == 1  # hooks of others stay
    assert units_of(twin).keys() == units_of(united(monkeypatch)).keys()
    assert output_and_count(twin, call)[1] == count
    assert torch.equal(twin(**call)[0], expected)
    prepare_(unet, "integer", torch.float32)
    assert torch.equal(unet(**call)[0], expected)
    prepare_(unet, "integer", torch.float32)
    assert output_and_count(unet, call)[1] == count
    with pytest.raises(DGQError, match="not pickled"):
        copy.copy(units_of(unet)["mid_block"]).weights[0][0].__reduce__()


@torch.no_grad()
def test_layers_under_adapters_are_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    outputs, counts = [], []
    for unet in (united(monkeypatch), apart(monkeypatch)):
        torch.manual_seed(0)
        names = ["to_k", "to_out.0", "proj_in"]
        unet.add_adapter(peft.LoraConfig(target_modules=names, init_lora_weights=False))
        output, count = output_and_count(unet, call_of(unet))
        outputs.append(output)
        counts.append(count)
        assert len(units_of(unet)) == count["unpack_all"]
        prepare_(unet, "integer", torch.float32)  # laid out anew with adapters around
        assert torch.equal(unet(**call_of(unet))[0], output)
    assert torch.equal(*outputs)
    assert counts[0]["int_conv2d_packed"] < counts[1]["int_conv2d_packed"] / 2


def test_gradient_checkpointing_does_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = united(monkeypatch)
    call = call_of(unet)
    with torch.no_grad():
        expected = unet(**call)[0]
        unet.enable_gradient_checkpointing()
        assert torch.equal(unet(**call)[0], expected)


@torch.no_grad()
def test_a_graph_unpacks_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    block = united(monkeypatch).down_blocks[0]
    call = {"hidden_states": torch.randn(2, 32, 8, 8), "temb": torch.randn(2, 128)}
    output, operators = output_and_operators(block, call)
    found = Counter(operators)
    assert found["dgq.unpack_all"] == 1
    assert found["dgq.int_conv2d_packed"] == 0
    assert found["dgq.int_conv2d"] + found["dgq.int_linear"] == 4
    torch.testing.assert_close(output, block(**call)[0], rtol=1e-2, atol=1e-3)
    assert all(weight.unpacked is None for weight in all_weights(block))


@pytest.mark.slow
@torch.no_grad()
def test_a_graph_of_the_whole_unet_unpacks_by_units(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = united(monkeypatch, SMALL)
    call = call_of(unet)
    expected, count = output_and_count(unet, call)
    output, operators = output_and_operators(unet, call)
    # Graphs quantize in plain torch.
    torch.testing.assert_close(output, expected, rtol=1e-2, atol=1e-3)
    found = Counter(operators)
    assert found["dgq.unpack_all"] == count["unpack_all"] == len(units_of(unet))
    for name in ("int_conv2d_packed", "int_conv2d", "int_linear"):
        assert found[f"dgq.{name}"] == count[name]
    assert all(weight.unpacked is None for weight in all_weights(unet))


@torch.no_grad()
def test_repeated_blocks_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = united(monkeypatch, SMALL)
    call = call_of(unet)
    expected = unet(**call)[0]
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    unet.compile_repeated_blocks(fullgraph=True, backend=backend)
    torch.testing.assert_close(unet(**call)[0], expected, rtol=1e-2, atol=1e-3)
    torch._dynamo.reset()
    assert len(graphs) == 1


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_module_unpacks_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    block = united(monkeypatch).down_blocks[0]
    x, time = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
    expected = block(x, time)[0]
    torch._dynamo.reset()
    found = torch.compile(block, fullgraph=True)(x, time)[0]
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    assert all(weight.unpacked is None for weight in all_weights(block))


@torch.no_grad()
def test_the_kernels_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    block = united(monkeypatch, OF_FEED_FORWARD).mid_block.attentions[0].transformer_blocks[0].ff
    assert unit_of(block) is not None
    x = torch.randn(1, 4, 64)
    expected = block(x)
    with kernels_for_cpu_tensors(Tile(16, 16, 32)) as called:
        found = block(x)
    assert called[0] == "unpack_all"
    assert "unpack" not in called
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
