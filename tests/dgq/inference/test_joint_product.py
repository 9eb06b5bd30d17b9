"""Layers that read one quantized tensor as one product, with the products of a GPU."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dgq.inference import execution, laying_out
from dgq.inference.execution import prepare_
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.joint_product import JointProduct
from dgq.inspection.memory import resident_bytes
from dgq.ops import cpu
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.attention import QuantizedAttention
from tests.compiled_graphs import output_and_operators
from tests.on_top.loras import lora
from tests.quantized_models import SETTINGS, TIMESTEPS, Calibrated, calibrated, decibels
from tests.triton_kernels import ProductsHere, kernels_for_cpu_tensors

pytestmark = pytest.mark.skipif(
    not cpu.products_are_exact(), reason="this CPU does not multiply bytes exactly"
)
Models = Callable[[str], Calibrated]
GPU = ProductsHere()
N_ATTENTIONS = 8
"""Of the micro UNet: self- and cross-attention of four transformer blocks."""

JOINED = (
    *("exponents", "exponents scores", "exponents a6", "multiples", "nothing kept"),
    *("w8a8 symmetric", "absorbed"),
)
"""Settings with which all attentions have joint products: of 4 bits, then of 8."""


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNets are prepared as they would be on a GPU."""
    monkeypatch.setattr(execution, "products_of", lambda _: (GPU, None))


def apart(found: Calibrated, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A UNet whose layers were never joined."""
    with monkeypatch.context() as patched:
        patched.setattr(laying_out, "join_", lambda _: None)
        return load_quantized_unet(found.folder, "integer", torch.float32)


def joints_of(unet: nn.Module) -> set[JointProduct]:
    layers = (m for m in unet.modules() if isinstance(m, IntegerLayer))
    return {layer.joint for layer in layers if isinstance(layer.joint, JointProduct)}


def attention_of(unet: Any, name: str = "attn1") -> Any:
    return unet.mid_block.attentions[0].transformer_blocks[0].get_submodule(name)


class Products(TorchDispatchMode):
    """Counts integer products."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(func).startswith("dgq.int_")
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def output_and_products(unet: Any, call: dict[str, Any]) -> tuple[Tensor, int]:
    with Products() as products:
        output = unet(**call)[0]
    return output, products.count


@pytest.mark.parametrize("name", JOINED)
@torch.no_grad()
def test_outputs_and_memory_are_those_of_separate_products(
    name: str, calibrated_as: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = calibrated_as(name)
    joint: Any = load_quantized_unet(found.folder, "integer", torch.float32)
    separate = apart(found, monkeypatch)
    assert len(joints_of(joint)) == N_ATTENTIONS
    assert joint.execution == separate.execution
    # Only weights without shifts beside others that have some take more than they did.
    assert resident_bytes(joint) <= resident_bytes(separate) or name == "exponents a6"
    state, expected_state = joint.state_dict(), separate.state_dict()
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(state[name], expected_state[name]) for name in state)
    of_two_steps = found.call | {"timestep": torch.tensor([TIMESTEPS[0], TIMESTEPS[-1]])}
    for call in (*(found.at(timestep) for timestep in TIMESTEPS), of_two_steps):
        output, n_products = output_and_products(joint, call)
        expected, n_separate = output_and_products(separate, call)
        assert torch.equal(output, expected)
        assert n_separate - n_products == N_ATTENTIONS // 2 * (2 + 1)


@torch.no_grad()
def test_a_weight_is_in_memory_once(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, "integer", torch.float32)
    attention = attention_of(unet)
    layers = (attention.to_q, attention.to_k, attention.to_v)
    joint = attention.to_q.joint
    whole = (*joint.weight.tensors.values(), joint.weight_scale, joint.bias)
    owned = {tensor.untyped_storage().data_ptr() for tensor in whole}
    for layer in layers:
        assert layer.joint is joint
        parts = (*layer.kernel_weight.tensors.values(), layer.weight_scale, layer.folded_bias)
        assert {tensor.untyped_storage().data_ptr() for tensor in parts} == owned
    assert joint.is_of(layers)
    assert not joint.is_of(layers[::-1]), "layers that were exchanged are read one by one"


@pytest.mark.parametrize("name", ["live", "residual", "kept projections"])
def test_layers_that_need_more_than_their_tables_stay_apart(
    name: str, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, "integer", torch.float32)
    assert joints_of(unet) == set()


@torch.no_grad()
def test_a_text_whose_start_token_is_kept_is_multiplied_in_floating_point(tmp_path: Path) -> None:
    activations = replace(SETTINGS["absorbed"].activations, keep_start_token=True)
    found = calibrated(replace(SETTINGS["absorbed"], activations=activations), tmp_path)
    unet: Any = load_quantized_unet(found.folder, "integer", torch.float32)
    assert attention_of(unet).to_q.joint in joints_of(unet)
    assert len(joints_of(unet)) == N_ATTENTIONS // 2
    assert decibels(found.output, unet(**found.call)[0]) > 60


@torch.no_grad()
def test_layers_of_different_formats_stay_apart(calibrated_as: Models) -> None:
    found = calibrated_as("mixed")
    unet: Any = load_quantized_unet(found.folder, "integer", torch.float32)
    attention = attention_of(unet)  # its to_k has 6 bits, the others 4
    assert {attention.get_submodule(name).joint for name in ("to_q", "to_k", "to_v")} == {None}
    assert len(joints_of(unet)) == N_ATTENTIONS - 1
    assert decibels(found.output, unet(**found.call)[0]) > 60


def test_a_cpu_multiplies_them_apart(
    calibrated_as: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    unet = load_quantized_unet(calibrated_as("multiples").folder, "integer", torch.float32)
    assert joints_of(unet) == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_attention_is_given_views(
    dtype: torch.dtype, calibrated_as: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet: Any = load_quantized_unet(calibrated_as("exponents a6").folder, "integer", dtype)
    given: list[tuple[Tensor, ...]] = []
    attend = F.scaled_dot_product_attention

    def noting(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        given.append((query, key, value))
        return attend(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noting)
    attention = attention_of(unet)
    tokens, width = 16, attention.inner_dim
    attention(torch.randn(2, tokens, width, dtype=dtype))
    of_text = attention_of(unet, "attn2")
    text = torch.randn(2, 5, of_text.cross_attention_dim, dtype=dtype)
    of_text(torch.randn(2, tokens, width, dtype=dtype), text)
    for views, n_tokens in ((given[0], tokens), (given[1][1:], 5)):
        row = len(views) * width
        for place, view in enumerate(views):
            assert view.stride() == (n_tokens * row, width // attention.heads, row, 1)
            assert view.storage_offset() == place * width
            assert view.untyped_storage().data_ptr() == views[0].untyped_storage().data_ptr()


@pytest.mark.parametrize("name", ["multiples", "w8a8 symmetric"])
@pytest.mark.parametrize("steps", [(0,), (2, 0)])
@pytest.mark.parametrize("kind", ["attn1", "attn2"])
@torch.no_grad()
def test_the_kernels_compute_the_same(
    kind: str,
    steps: tuple[int, ...],
    name: str,
    calibrated_as: Models,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = calibrated_as(name)
    unets = [
        load_quantized_unet(found.folder, "integer", torch.float32),
        apart(found, monkeypatch),
    ]
    outputs = []
    for unet in unets:
        attention = attention_of(unet, kind)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 5, attention.query_dim, generator=generator)
        text = torch.randn(2, 3, attention.cross_attention_dim, generator=generator)
        timesteps = torch.tensor([TIMESTEPS[step] for step in steps])
        unet.calls.begin(torch.zeros(2, 4, 8, 8), timesteps)
        with kernels_for_cpu_tensors() as called:
            outputs.append(attention(x, text if kind == "attn2" else None))
        alone = 4 if unet is unets[1] else 2 if kind == "attn1" else 3
        assert sum(name.startswith("int_") for name in called) == alone
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kind", ["attn1", "attn2"])
@torch.no_grad()
def test_layers_alone_read_parts_of_the_joint_tables(
    kind: str, calibrated_as: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their biases are columns of a wider table, whose rows kernels look up."""
    found = calibrated_as("multiples")
    joint = load_quantized_unet(found.folder, "integer", torch.float32)
    separate = apart(found, monkeypatch)
    for unet in (joint, separate):
        unet.calls.begin(torch.zeros(2, 4, 8, 8), torch.tensor(TIMESTEPS[:2]))
    attention, expected = attention_of(joint, kind), attention_of(separate, kind)
    x = torch.randn(2, 5, attention.to_k.in_features)
    with kernels_for_cpu_tensors():
        for name in ("to_k", "to_v"):
            assert torch.equal(attention.project(name, x), expected.project(name, x))


class Projecting(AttnProcessor2_0):
    """An attention processor of its own, which projects one by one."""


@torch.no_grad()
def test_other_processors_and_hooks_see_each_layer(calibrated_as: Models) -> None:
    found = calibrated_as("multiples")
    unet: Any = load_quantized_unet(found.folder, "integer", torch.float32)
    expected, n_joint = output_and_products(unet, found.call)
    n_separate = n_joint + N_ATTENTIONS // 2 * (2 + 1)
    unet.set_attn_processor(Projecting())
    output, count = output_and_products(unet, found.call)
    assert count == n_separate
    assert decibels(expected, output) > 60
    unet.set_default_attn_processor()
    unet.set_attn_processor({name: unet.attn_processors[name] for name in unet.attn_processors})
    for module in unet.modules():
        if isinstance(module, QuantizedAttention):
            module.own_processor = None
    seen: list[Tensor] = []
    layer = attention_of(unet).to_k
    handle = layer.register_forward_hook(lambda *call: seen.append(call[-1]))
    output, count = output_and_products(unet, found.call)
    assert (count, len(seen)) == (n_joint + 2, 1)
    assert torch.equal(output, expected)
    handle.remove()
    unet.fuse_qkv_projections()
    assert output_and_products(unet, found.call)[1] == n_joint
    # Self-attention to further tokens: what q reads is not what k and v read.
    attention, x = attention_of(unet), torch.randn(2, 16, 16)
    twice = attention(x, encoder_hidden_states=torch.cat([x, x], 1))
    torch.testing.assert_close(twice, attention(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("leaf", ["to_q", "to_v"])
def test_with_an_adapter_they_are_apart(
    leaf: str, calibrated_as: Models, micro_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    found = calibrated_as("multiples")
    pipeline: Any = load_pipeline(str(micro_folder))
    state = lora(pipeline.unet, (f"attn1.{leaf}", f"attn2.{leaf}"))
    pipeline.unet = joint = load_quantized_unet(found.folder, "integer", torch.float32)
    plain, n_joint = output_and_products(joint, found.call)
    pipeline.load_lora_weights(dict(state), adapter_name="a")
    adapted, n_adapted = output_and_products(joint, found.call)
    pipeline.unet = separate = apart(found, monkeypatch)
    pipeline.load_lora_weights(dict(state), adapter_name="a")
    assert torch.equal(adapted, output_and_products(separate, found.call)[0])
    assert not torch.equal(adapted, plain)
    assert n_adapted - n_joint == N_ATTENTIONS // 2 * (2 + (leaf == "to_v"))
    for off, on in ((joint.disable_lora, joint.enable_lora), (joint.delete_adapters, None)):
        off(*(() if on else ("a",)))
        output, count = output_and_products(joint, found.call)
        assert torch.equal(output, plain)
        assert count == n_joint
        if on is not None:
            on()
            assert torch.equal(output_and_products(joint, found.call)[0], adapted)
    # Laid out anew with an adapter around, they are joined as before.
    pipeline.unet = joint
    pipeline.load_lora_weights(dict(state), adapter_name="b")
    prepare_(joint, "integer", torch.float32)
    assert len(joints_of(joint)) == N_ATTENTIONS
    assert torch.equal(output_and_products(joint, found.call)[0], adapted)


@torch.no_grad()
def test_what_happens_to_a_unet_keeps_them_joined(calibrated_as: Models) -> None:
    found = calibrated_as("multiples")
    unet: Any = load_quantized_unet(found.folder, "integer", torch.float32)
    expected, n_joint = output_and_products(unet, found.call)
    twin = copy.deepcopy(unet)
    mine, its = attention_of(unet).to_q, attention_of(twin).to_q
    assert its.joint is not mine.joint
    assert its.joint.weight is mine.joint.weight  # which is never changed
    places = {t.untyped_storage().data_ptr() for t in (its.joint.bias, its.folded_bias)}
    assert len(places) == 1
    assert places != {mine.folded_bias.untyped_storage().data_ptr()}
    changed = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    name = next(name for name in changed if name.endswith("attn1.to_k.scale"))
    changed[name] *= 2
    unet.load_state_dict(changed)
    assert not torch.equal(unet(**found.call)[0], expected)
    assert torch.equal(twin(**found.call)[0], expected)
    unet.load_state_dict(twin.state_dict())
    nn.Module.float(unet).to(torch.device("cpu"))
    output, count = output_and_products(unet, found.call)
    assert count == n_joint
    assert torch.equal(output, expected)
    prepare_(unet, "float", torch.float32)
    assert joints_of(unet) == set()
    assert decibels(expected, unet(**found.call)[0]) > 60
    prepare_(unet, "integer", torch.float32)
    output, count = output_and_products(unet, found.call)
    assert count == n_joint
    assert torch.equal(output, expected)


@pytest.mark.parametrize(
    "name", ["multiples", pytest.param("w8a8 symmetric", marks=pytest.mark.slow)]
)
@torch.no_grad()
def test_a_compiled_unet_has_one_product_for_them(name: str, calibrated_as: Models) -> None:
    found = calibrated_as(name)
    unet: Any = load_quantized_unet(found.folder, "integer", torch.float32)
    expected, n_joint = output_and_products(unet, found.call)
    output, operators = output_and_operators(unet, found.call)
    assert decibels(expected, output) > 60
    assert sum("dgq.int_" in name for name in operators) == n_joint
