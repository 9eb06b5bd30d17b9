"""``unet.compile()``: fewer guards than by ``torch.compile(unet)``, right after every change."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dgq
from dgq.inference.kernel_layer import KernelLayer
from dgq.ops import cpu
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet import compiling
from tests.on_top.loras import lora
from tests.quantized_models import TIMESTEPS, Calibrated, calibrated, decibels
from tests.tiny_pipelines import micro_unet

Models = Callable[[str], Calibrated]
pytestmark = pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


class Graphs:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        self.made += 1
        return graph


def loaded(found: Calibrated) -> Any:
    return load_quantized_unet(found.folder, "integer", torch.float32)


def compiled(unet: nn.Module, **options: Any) -> Graphs:
    graphs = Graphs()
    unet.compile(fullgraph=True, dynamic=False, backend=graphs, **options)
    return graphs


def agrees(unet: Any, call: dict[str, Any], least: float = 80) -> bool:
    """Whether a compiled UNet computes what a copy that is not compiled does."""
    return decibels(copy.deepcopy(unet)(**call)[0], unet(**call)[0]) > least


# What is checked


def test_few_guards_are_left(calibrated_as: Models) -> None:
    found = calibrated_as("exponents")
    seen: list[tuple[Any, bool]] = []

    def recorded(guards: Any) -> list[bool]:
        seen.extend(zip(guards, compiling.needed(guards), strict=True))
        return [True] * len(guards)

    unet = loaded(found)
    compiled(unet, options={"guard_filter_fn": recorded})
    assert agrees(unet, found.call)
    left = [guard for guard, kept in seen if kept and guard.guard_type != compiling.HOOKS]
    layers = {guard.name for guard, _ in seen if isinstance(guard.value, KernelLayer)}
    assert len(layers) == unet.execution.integer_layers
    assert sorted(layers) == sorted(guard.name for guard in left if guard.name in layers)
    assert layers <= {guard.name for guard in left if guard.guard_type == "TYPE_MATCH"}
    assert not any(compiling.is_inside(guard.name, layers) for guard in left)
    assert len(left) < len(seen) / 2
    others = ("self.layout", "calls._known", "'conv_in'", "'norm1'", ".own_processor", "kwargs")
    for name in others:
        kept = [kept for guard, kept in seen if name in guard.name]
        assert kept
        assert all(kept)


def test_a_filter_of_ones_own_is_heeded_as_well() -> None:
    guards = [SimpleNamespace(name=name, value=0, guard_type="") for name in ("a", "b", "ab.c")]
    both = compiling.both(lambda gs: ["a" in g.name for g in gs], lambda gs: [True, True, False])
    assert both(guards) == [True, False, False]


def test_names_are_inside_of_those_that_they_begin_with() -> None:
    owners = {"self.a", "self.b['c']"}
    of_class = ("type(self.a)", "dict(type(self.a).__mro__[2].__dict__)['forward']")
    for name in ("self.a.x", "self.a['x'].y", "self.b['c'].x", "self.b['c'][0]", *of_class):
        assert compiling.is_inside(name, owners)
    for name in (
        "self.a",
        "self.ab",
        "self.ab.x",
        "self.b['c']",
        "self.b['d'].x",
        "type(self.ab).x",
    ):
        assert not compiling.is_inside(name, owners)


# What it is compiled with


def test_a_mode_is_told_as_options() -> None:
    given = compiling.with_filter({"mode": "reduce-overhead", "fullgraph": True})
    assert given["options"].pop("guard_filter_fn") is compiling.needed
    options = torch._inductor.list_mode_options("reduce-overhead")
    assert given == {"mode": None, "fullgraph": True, "options": options}
    given["options"]["triton.cudagraphs"] = False
    assert options == torch._inductor.list_mode_options("reduce-overhead")


def test_given_options_are_left_as_they_are() -> None:
    options = {"max_autotune": True}
    given = compiling.with_filter({"options": options})
    assert given["options"] == options | {"guard_filter_fn": compiling.needed}
    assert options == {"max_autotune": True}


@pytest.mark.parametrize(
    "arguments",
    [{"mode": "default", "options": {"max_autotune": True}}, {"mode": "fast", "backend": print}],
)
def test_what_torch_refuses_or_a_backend_reads_is_passed_on(arguments: dict[str, Any]) -> None:
    assert compiling.with_filter(arguments) == arguments


class Scaled(compiling.Compiles):
    """A module that can be compiled at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice the input."""
        return x * 2


def test_a_backend_gets_its_options_alone() -> None:
    got = []

    def backend(graph: torch.fx.GraphModule, _: Any, **more: Any) -> torch.fx.GraphModule:
        got.append(more)
        return graph

    for options in ({}, {"options": {"a": 1}}, {"mode": "fast"}):
        torch._dynamo.reset()
        module = Scaled()
        module.compile(backend=backend, **options)
        assert module(torch.ones(1)) == 2
        assert got.pop() == options


def test_inductor_gets_a_mode_and_torch_refuses_it_with_options() -> None:
    with pytest.raises(RuntimeError, match="Unrecognized mode"):
        Scaled().compile(mode="fast")
    with pytest.raises(RuntimeError, match="mode or options"):
        Scaled().compile(mode="default", options={"max_autotune": True})


# What triggers another graph


def moved(unet: Any) -> None:
    """As by ``.to`` of another device."""
    unet.execution.before_move_(unet)
    unet.execution.after_move_(unet)


def in_float(unet: Any) -> None:
    dgq.prepare_(unet, "float", torch.float32)  # images stay laid out by pixels


def replaced(unet: Any) -> None:
    unet.conv_in = nn.Conv2d(4, unet.conv_in.out_channels, 3, padding=1, bias=False)


def other_attention(unet: Any) -> None:
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    attention.attend = lambda query, key, value, heads, scale: query


CHANGES: dict[str, tuple[Callable[[Any], object], int]] = {
    "nothing": (lambda unet: None, 0),
    "moved": (moved, 0),
    "prepared again": (lambda unet: dgq.prepare_(unet, dtype=torch.float32), 0),
    "in training": (lambda unet: unet.train(), 1),
    "in evaluation again": (lambda unet: unet.eval(), 0),
    "a stock layer replaced": (replaced, 1),
    "in floating point": (in_float, 1),
    "in integers again, and bfloat16": (lambda unet: dgq.prepare_(unet, dtype=torch.bfloat16), 1),
    "attention by others": (other_attention, 1),
}
"""What is done to a compiled UNet, one after the other, and how many graphs are made then."""


@pytest.mark.slow
def test_a_changed_unet_is_compiled_anew_where_it_has_to_be(calibrated_as: Models) -> None:
    found = calibrated_as("exponents")
    unet, expected = loaded(found), 1
    made = compiled(unet)
    for change, (apply, graphs) in CHANGES.items():
        apply(unet)
        least = 30 if unet.conv_in.weight.dtype == torch.bfloat16 else 80
        assert agrees(unet, found.call, least), change
        expected += graphs
        assert made.made == expected, change


@pytest.mark.slow
def test_another_batch_and_another_step(calibrated_as: Models) -> None:
    found = calibrated_as("exponents")
    unet = loaded(found)
    made = compiled(unet)
    assert all(agrees(unet, found.at(t)) for t in TIMESTEPS)
    assert made.made == 1
    one = {name: found.call[name][:1] for name in ("sample", "encoder_hidden_states")}
    assert all(agrees(unet, found.at(t) | one) for t in TIMESTEPS)
    assert made.made == 2


@pytest.mark.slow
def test_a_lora_is_put_on_scaled_and_taken_off(calibrated_as: Models) -> None:
    pytest.importorskip("peft")
    found = calibrated_as("exponents")
    unet = loaded(found)
    made = compiled(unet)
    plain = unet(**found.call)[0]
    unet.load_lora_adapter(lora(micro_unet()), prefix="unet", adapter_name="a")
    seen = [unet(**found.call)[0]]
    assert agrees(unet, found.call)
    unet.set_adapters("a", 0.5)
    seen.append(unet(**found.call)[0])
    assert agrees(unet, found.call)
    unet.disable_lora()
    assert decibels(plain, unet(**found.call)[0]) > 80
    unet.enable_lora()
    assert decibels(seen[-1], unet(**found.call)[0]) > 80
    unet.unload_lora()
    assert decibels(plain, unet(**found.call)[0]) > 80
    assert all(decibels(plain, output) < 40 for output in seen)
    assert made.made == 4  # two were met again


@pytest.mark.slow
def test_graphs_are_not_shared_by_unets_of_other_bits(
    calibrated_as: Models, tmp_path: Path
) -> None:
    wide = calibrated_as("exponents a6")
    grouping = replace(wide.settings.activations, n_bits=5)
    narrow = calibrated(replace(wide.settings, activations=grouping), tmp_path)
    graphs = Graphs()
    for found, made in ((wide, 1), (narrow, 2), (wide, 2)):
        unet = loaded(found)
        unet.compile(fullgraph=True, dynamic=False, backend=graphs)
        assert agrees(unet, found.call)
        assert graphs.made == made
