"""``unet.compile()``: fewer guards than by ``torch.compile(unet)``, right after every change."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import dgq
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


def agrees(unet: Any, call: dict[str, Any]) -> bool:
    """Whether a compiled UNet computes what a copy that is not compiled does."""
    return decibels(copy.deepcopy(unet)(**call)[0], unet(**call)[0]) > 80


# What is checked


def test_few_guards_are_left(calibrated_as: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    found, counts = calibrated_as("exponents"), []

    def counted(guards: Any) -> list[bool]:
        kept = compiling.needed(guards)
        counts.append((len(kept), sum(kept)))
        types = {g.name: type(g.value) for g in guards if g.guard_type == "TYPE_MATCH"}
        left = {g.name for g, keeps in zip(guards, kept, strict=True) if keeps}
        owners = {name for name, kind in types.items() if issubclass(kind, compiling.LaidOut)}
        outermost = {name for name in owners if not compiling.is_inside(name, owners)}
        assert outermost < left
        assert not any(compiling.is_inside(name, outermost) for name in left if "hooks" not in name)
        for name in ("conv_in", "calls", "layout"):
            assert any(name in one for one in left)
        return [True] * len(kept)

    unet = loaded(found)
    compiled(unet, options={"guard_filter_fn": counted})
    unet(**found.call)
    (every, kept) = counts[0]
    assert kept < every / 2


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
        "type(self.a).x",
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


def test_a_backend_gets_its_options_alone(calibrated_as: Models) -> None:
    found, got = calibrated_as("exponents"), []

    def backend(graph: torch.fx.GraphModule, _: Any, **more: Any) -> torch.fx.GraphModule:
        got.append(more)
        return graph

    unet = loaded(found)
    for options in (None, {"a": 1}):
        torch._dynamo.reset()
        unet.compile(backend=backend, options=options)
        unet(**found.call)
    assert got == [{}, {"options": {"a": 1}}]


# What triggers another graph


def bfloat16(unet: Any) -> None:
    dgq.prepare_(unet, dtype=torch.bfloat16)


def moved(unet: Any) -> None:
    """As by ``.to`` of another device."""
    unet.execution.before_move_(unet)
    unet.execution.after_move_(unet)


def replaced(unet: Any) -> None:
    unet.conv_in = nn.Conv2d(4, unet.conv_in.out_channels, 3, padding=1, bias=False)


CHANGES: dict[str, tuple[Callable[[Any], object], int]] = {
    "nothing": (lambda unet: None, 0),
    "moved": (moved, 0),
    "prepared again": (lambda unet: dgq.prepare_(unet, dtype=torch.float32), 0),
    "in floating point": (lambda unet: dgq.prepare_(unet, "float", torch.float32), 1),
    "in bfloat16": (bfloat16, 1),
    "in training": (lambda unet: unet.train(), 1),
    "a stock layer replaced": (replaced, 1),
    "attention by others": (
        lambda unet: (
            unet.mid_block.attentions[0]
            .transformer_blocks[0]
            .attn1.__dict__.update(attend=lambda q, *_: q)
        ),
        1,
    ),
}
"""Something done to a compiled UNet, and how many graphs it has to be compiled to then."""


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_unet_is_compiled_anew_where_it_has_to_be(
    change: str, calibrated_as: Models
) -> None:
    found = calibrated_as("exponents")
    unet, (apply, graphs) = loaded(found), CHANGES[change]
    made = compiled(unet)
    assert agrees(unet, found.call)
    apply(unet)
    noise = 30 if change == "in bfloat16" else 80
    assert decibels(copy.deepcopy(unet)(**found.call)[0], unet(**found.call)[0]) > noise
    assert made.made == 1 + graphs


def test_another_batch_and_another_step(calibrated_as: Models) -> None:
    found = calibrated_as("exponents")
    unet = loaded(found)
    made = compiled(unet)
    one = {name: x[:1] for name, x in found.call.items() if name != "timestep"}
    assert all(agrees(unet, found.at(t)) for t in TIMESTEPS)
    assert made.made == 1
    assert all(agrees(unet, one | {"timestep": torch.tensor(t)}) for t in TIMESTEPS)
    assert made.made == 2


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
    unet.delete_adapters("a")
    assert decibels(plain, unet(**found.call)[0]) > 80
    assert all(decibels(plain, output) < 40 for output in seen)
    assert made.made == 4  # the last but one and the first are met again


def test_graphs_are_not_shared_by_unets_of_other_bits(
    calibrated_as: Models, tmp_path: Path
) -> None:
    wide = calibrated_as("exponents")
    grouping = replace(wide.settings.activations, n_bits=6)
    narrow = calibrated(replace(wide.settings, activations=grouping), tmp_path)
    graphs = Graphs()
    for found, made in ((wide, 1), (narrow, 2), (wide, 2)):
        unet = loaded(found)
        unet.compile(fullgraph=True, dynamic=False, backend=graphs)
        assert agrees(unet, found.call)
        assert graphs.made == made
