"""LoRA by PEFT on quantized UNets: the effect, the arithmetic, loading, taking off, training."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from dgq.errors import DGQError
from dgq.inference.layers import PackedLayer
from dgq.pipelines.loading import load_pipeline
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.attention import QuantizedAttention
from dgq.unet.quantize import quantize_
from tests.on_top.loras import LEAVES, TO_Q, factors, lora
from tests.quantized_models import Calibrated, decibels
from tests.tiny_pipelines import calibrate_, micro_unet

peft = pytest.importorskip("peft")

Models = Callable[[str], Calibrated]
Loaded = Callable[..., Any]


@pytest.fixture
def pipeline(micro_folder: Path) -> Any:
    made = load_pipeline(str(micro_folder))
    made.set_progress_bar_config(disable=True)
    return made


def call(unet: nn.Module, found: Calibrated) -> Tensor:
    with torch.no_grad():
        return unet(**found.call)[0]


def adapter(**more: Any) -> Any:
    return peft.LoraConfig(r=2, target_modules=["to_q", "conv1"], **more)


# The effect


@pytest.mark.parametrize("execution", ["float", "auto"])
@pytest.mark.parametrize("name", ["kmeans", "multiples", "kept projections", "split skips"])
def test_a_lora_changes_a_quantized_unet_as_it_changes_the_stock_one(
    name: str, execution: Any, calibrated_as: Models, pipeline: Any
) -> None:
    found = calibrated_as(name)
    state = lora(pipeline.unet)
    stock, plain = pipeline.unet, call(pipeline.unet, found)
    pipeline.load_lora_weights(dict(state))
    adapted = call(stock, found)
    pipeline.unet = load_quantized_unet(found.folder, execution)
    before = call(pipeline.unet, found)
    pipeline.load_lora_weights(dict(state))
    after = call(pipeline.unet, found)
    assert decibels(plain, adapted) < 10  # a strong LoRA
    assert decibels(adapted, after) > decibels(plain, before) - 3
    assert decibels(adapted - plain, after - before) > 3  # relative error of the difference < 0.7
    pipeline.unload_lora_weights()
    assert torch.equal(call(pipeline.unet, found), before)


def test_the_better_the_quantization_the_closer_the_change(
    calibrated_as: Models, pipeline: Any
) -> None:
    """What separates the changes is the quantization alone: at 16-bit activations W4 is closest."""
    stock, state = pipeline.unet, lora(pipeline.unet, strength=0.2)
    plain = call(stock, calibrated_as("w4a16"))
    pipeline.load_lora_weights(dict(state))
    change = call(stock, calibrated_as("w4a16")) - plain
    errors = {}
    for name in ("w4a16", "exponents", "kmeans"):
        pipeline.unet = unet = load_quantized_unet(calibrated_as(name).folder, "float")
        before = call(unet, calibrated_as(name))
        pipeline.load_lora_weights(dict(state))
        found = call(unet, calibrated_as(name)) - before
        errors[name] = float((found - change).norm() / change.norm())
    assert errors["w4a16"] < min(errors["exponents"], errors["kmeans"])
    assert errors["w4a16"] < 0.5


# The arithmetic


class AddedByHand:
    """``B A x`` added to what the projections of an attention return, ``x`` not quantized."""

    def __init__(self, unet: nn.Module, state: dict[str, Tensor]) -> None:
        for name, module in unet.named_modules():
            if isinstance(module, QuantizedAttention):
                inputs: dict[str, Tensor] = {}
                module.register_forward_pre_hook(noting(inputs), with_kwargs=True)
                for leaf in ("to_q", "to_k", "to_v"):
                    added = factors(state, f"{name}.{leaf}")
                    key = "context" if leaf != "to_q" else "hidden"
                    module.get_submodule(leaf).register_forward_hook(adding(added, inputs, key))


def noting(inputs: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        context = kwargs.get("encoder_hidden_states")
        inputs.update(hidden=hidden, context=hidden if context is None else context)

    return hook


def adding(
    added: Callable[[Tensor], Tensor], inputs: dict[str, Tensor], key: str
) -> Callable[..., Tensor]:
    return lambda module, args, output: output + added(inputs[key])


@pytest.mark.parametrize("execution", ["float", "auto"])
@pytest.mark.parametrize("name", ["exponents", "kmeans"])
def test_adapters_of_projections_read_what_was_not_quantized(
    name: str, execution: Any, calibrated_as: Models, pipeline: Any
) -> None:
    found = calibrated_as(name)
    state = lora(pipeline.unet, ("to_q", "to_k", "to_v"))
    pipeline.unet = load_quantized_unet(found.folder, execution, torch.float32)
    by_hand = load_quantized_unet(found.folder, execution, torch.float32)
    AddedByHand(by_hand, state)
    pipeline.load_lora_weights(dict(state))
    # Where a sum is rounded differently, a code may be another one.
    assert decibels(call(by_hand, found), call(pipeline.unet, found)) > 45


@pytest.mark.parametrize("execution", ["float", "auto"])
@pytest.mark.parametrize(
    "layer", [TO_Q, "mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in"]
)
@torch.no_grad()
def test_a_layer_with_an_adapter_is_the_layer_plus_the_adapter(
    layer: str, execution: Any, calibrated_as: Models, pipeline: Any
) -> None:
    stock = pipeline.unet.get_submodule(layer)
    state = {k: v for k, v in lora(pipeline.unet).items() if k.startswith(f"unet.{layer}.")}
    unet = load_quantized_unet(calibrated_as("exponents").folder, execution, torch.float32)
    pipeline.unet = unet
    base = unet.get_submodule(layer)
    pipeline.load_lora_weights(dict(state), adapter_name="a")
    pipeline.set_adapters("a", 0.5)
    down, up = state.values()
    if isinstance(stock, nn.Linear):
        x = torch.randn(2, 16, stock.in_features)
        added = x @ down.T @ up.T
    else:
        x = torch.randn(2, stock.in_channels, 4, 4)
        added = nn.functional.conv2d(x, down, None, stock.stride, stock.padding)
        added = nn.functional.conv2d(added, up)
    given = {}
    if layer == TO_Q:
        given = {"quantized": unet.get_submodule(TO_Q.removesuffix(".to_q")).input_quantizer(x)}
    expected = base(x, **given) + 0.5 * added
    torch.testing.assert_close(unet.get_submodule(layer)(x, **given), expected)


def test_two_adapters_add_up_with_their_weights(calibrated_as: Models, pipeline: Any) -> None:
    found = calibrated_as("w4a16")
    a, b = (lora(pipeline.unet, ("conv2",), seed=seed) for seed in (1, 2))
    pipeline.unet = unet = load_quantized_unet(found.folder)
    pipeline.load_lora_weights(dict(a), adapter_name="a")
    pipeline.load_lora_weights(dict(b), adapter_name="b")
    pipeline.set_adapters(["a", "b"], [0.5, 0.25])
    assert pipeline.get_active_adapters() == ["a", "b"]
    both = call(unet, found)
    joined = {}
    for key, first in a.items():
        if "lora_A" in key:
            joined[key] = torch.cat([first, b[key]])
        else:
            joined[key] = torch.cat([0.5 * first, 0.25 * b[key]], 1)
    pipeline.delete_adapters(["a", "b"])
    pipeline.load_lora_weights(joined)
    torch.testing.assert_close(call(unet, found), both, rtol=1e-4, atol=1e-5)


# Loading, switching, taking off


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_of_any_precision_compute_in_that_of_the_unet(
    dtype: torch.dtype, calibrated_as: Models, pipeline: Any
) -> None:
    found = calibrated_as("exponents")
    state = lora(pipeline.unet, strength=0.2)
    for own in (torch.float32, torch.bfloat16):
        pipeline.unet = unet = load_quantized_unet(found.folder, dtype=own)
        plain = call(unet, found)
        pipeline.load_lora_weights(dict(state))
        expected = call(unet, found)
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights({k: v.to(dtype) for k, v in state.items()})
        layer = unet.get_submodule(TO_Q)
        assert layer.lora_A["default_0"].weight.dtype == own
        assert decibels(expected, call(unet, found)) > decibels(expected, plain) + 10


def test_a_unet_in_half_takes_adapters_in_half(calibrated_as: Models, pipeline: Any) -> None:
    state = lora(pipeline.unet, ("to_q",))
    folder = calibrated_as("exponents").folder
    pipeline.unet = load_quantized_unet(folder, "float", torch.float16)
    pipeline.load_lora_weights(state)
    assert pipeline.unet.get_submodule(TO_Q).lora_A["default_0"].weight.dtype == torch.float16


def test_adapters_are_switched_scaled_and_deleted(calibrated_as: Models, pipeline: Any) -> None:
    found = calibrated_as("exponents")
    state = lora(pipeline.unet)
    pipeline.unet = unet = load_quantized_unet(found.folder)
    before, modules = call(unet, found), list(unet.state_dict())
    pipeline.load_lora_weights(dict(state), adapter_name="a")
    on = call(unet, found)
    assert not torch.equal(on, before)
    pipeline.disable_lora()
    assert torch.equal(call(unet, found), before)
    pipeline.enable_lora()
    assert torch.equal(call(unet, found), on)
    with torch.no_grad():
        half = unet(**found.call, cross_attention_kwargs={"scale": 0.5})[0]
        off = unet(**found.call, cross_attention_kwargs={"scale": 0.0})[0]
    assert torch.equal(off, before)
    assert decibels(before, half) > decibels(before, on)
    copied = copy.deepcopy(unet)
    pipeline.delete_adapters("a")
    assert torch.equal(call(unet, found), before)
    assert torch.equal(call(copied, found), on)
    pipeline.unload_lora_weights()
    assert list(unet.state_dict()) == modules


def test_kohya_files_with_alphas_load(calibrated_as: Models, pipeline: Any) -> None:
    found = calibrated_as("exponents")
    state = lora(pipeline.unet, ("attn1.to_q",))
    down, up = (state[f"unet.{TO_Q}.lora_{x}.weight"] for x in "AB")
    name = "lora_unet_" + TO_Q.replace(".", "_")
    kohya = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    pipeline.unet = load_quantized_unet(found.folder)
    pipeline.load_lora_weights(kohya | {f"{name}.alpha": torch.tensor(1.0)})
    assert pipeline.unet.get_submodule(TO_Q).scaling == {"default_0": 0.5}


def test_hot_swapping_equals_loading(calibrated_as: Models, pipeline: Any) -> None:
    found = calibrated_as("exponents")
    a, b = (lora(micro_unet(), seed=seed) for seed in (1, 2))
    pipeline.unet = unet = load_quantized_unet(found.folder)
    pipeline.load_lora_weights(dict(a), adapter_name="a")
    pipeline.load_lora_weights(dict(b), adapter_name="a", hotswap=True)
    swapped = call(unet, found)
    pipeline.unload_lora_weights()
    pipeline.load_lora_weights(dict(b), adapter_name="a")
    assert torch.equal(call(unet, found), swapped)


@pytest.mark.parametrize("kind", ["exponents", "live", "split skips"])
@pytest.mark.parametrize("execution", ["calibrating", "float", "auto"])
def test_adapters_of_other_ranks_are_swapped_in(
    execution: Any, kind: str, calibrated_as: Models, pipeline: Any
) -> None:
    found = calibrated_as(kind)
    a, b = (lora(micro_unet(), seed=seed) for seed in (1, 2))
    b |= {name: widened(tensor, "lora_A" in name) for name, tensor in b.items()}

    def loaded() -> Any:
        if execution == "calibrating":
            return copy.deepcopy(found.unet)
        return load_quantized_unet(found.folder, execution, torch.float32)

    pipeline.unet = unet = loaded()
    pipeline.enable_lora_hotswap(target_rank=4)
    pipeline.load_lora_weights(dict(a), adapter_name="one")
    first = call(unet, found)
    pipeline.load_lora_weights(dict(b), adapter_name="one", hotswap=True)
    second = call(unet, found)
    for state, swapped in ((a, first), (b, second)):
        pipeline.unet = alone = loaded()
        pipeline.load_lora_weights(dict(state), adapter_name="one")
        assert decibels(call(alone, found), swapped) > 100
    assert decibels(first, second) < 60


def widened(factor: Tensor, is_down: bool) -> Tensor:
    """A factor of rank 2 as one of rank 3."""
    return (
        torch.cat([factor, factor[:1] * 0.5]) if is_down else torch.cat([factor, factor[:, :1]], 1)
    )


@torch.no_grad()
def test_a_compiled_block_takes_swapped_adapters_without_another_graph(
    calibrated_as: Models, pipeline: Any
) -> None:
    pipeline.unet = unet = load_quantized_unet(calibrated_as("exponents").folder, "float")
    pipeline.enable_lora_hotswap(target_rank=4)
    pipeline.load_lora_weights(lora(micro_unet(), seed=1), adapter_name="one")
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    x, text = torch.randn(2, 16, 16), torch.randn(2, 77, 16)
    graphs = CompileCounter()
    compiled = torch.compile(block, fullgraph=True, backend=graphs)
    first = compiled(x, encoder_hidden_states=text)
    state = lora(micro_unet(), seed=2)
    pipeline.load_lora_weights(state, adapter_name="one", hotswap=True)
    second = compiled(x, encoder_hidden_states=text)
    torch.testing.assert_close(second, block(x, encoder_hidden_states=text))
    assert not torch.equal(first, second)
    assert graphs.frame_count == 1


@pytest.mark.parametrize("execution", ["float", "auto"])
@torch.no_grad()
def test_compiled_blocks_take_a_lora(execution: Any, calibrated_as: Models, pipeline: Any) -> None:
    folder = calibrated_as("exponents").folder
    pipeline.unet = unet = load_quantized_unet(folder, execution, torch.float32)
    pipeline.load_lora_weights(lora(micro_unet()))
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    x, text = torch.randn(2, 16, 16), torch.randn(2, 77, 16)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    expected = block(x, encoder_hidden_states=text)
    torch.testing.assert_close(compiled(x, encoder_hidden_states=text), expected)


@pytest.mark.slow
def test_a_compiled_unet_takes_a_lora(calibrated_as: Models, pipeline: Any) -> None:
    found = calibrated_as("exponents")
    pipeline.unet = unet = load_quantized_unet(found.folder, dtype=torch.float32)
    pipeline.load_lora_weights(lora(micro_unet()))
    compiled = torch.compile(unet, fullgraph=True)
    assert decibels(call(unet, found), call(compiled, found)) > 40


# Refused


REFUSED = {
    "dora": lambda unet: unet.add_adapter(adapter(use_dora=True)),
    "pissa": lambda unet: unet.add_adapter(adapter(init_lora_weights="pissa")),
    "biases": lambda unet: unet.add_adapter(adapter(bias="all")),
    "loha": lambda unet: unet.add_adapter(peft.LoHaConfig(r=2, target_modules=["to_q"])),
    "lokr": lambda unet: unet.load_lora_adapter(
        {f"unet.{TO_Q}.lokr_w1": torch.ones(2, 2), f"unet.{TO_Q}.lokr_w2": torch.ones(8, 8)},
        prefix="unet",
    ),
    "dora file": lambda unet: unet.load_lora_adapter(
        {
            f"unet.{TO_Q}.lora_A.weight": torch.ones(2, 16),
            f"unet.{TO_Q}.lora_B.weight": torch.ones(16, 2),
            f"unet.{TO_Q}.lora_magnitude_vector": torch.ones(16),
        },
        prefix="unet",
    ),
    "of another model": lambda unet: unet.load_lora_adapter(
        {
            f"unet.{TO_Q}.lora_A.weight": torch.ones(2, 99),
            f"unet.{TO_Q}.lora_B.weight": torch.ones(16, 2),
        },
        prefix="unet",
    ),
    "by peft itself": lambda unet: peft.get_peft_model(unet, adapter(use_dora=True)),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("with_another", [False, True])
def test_what_needs_the_weights_is_refused_and_leaves_no_trace(
    what: str, with_another: bool, calibrated_as: Models
) -> None:
    found = calibrated_as("exponents")
    unet = load_quantized_unet(found.folder, "float")
    if with_another:
        unet.load_lora_adapter(lora(micro_unet(), ("to_q",)), prefix="unet", adapter_name="first")
    before, modules = call(unet, found), list(unet.state_dict())
    with pytest.raises(DGQError) as refused:
        REFUSED[what](unet)
    assert "\n" not in str(refused.value)
    assert torch.equal(call(unet, found), before)
    if what != "by peft itself":  # which notes the adapter before it is asked
        assert list(unet.state_dict()) == modules
        assert list(unet.peft_config) == (["first"] if with_another else [])


@pytest.mark.parametrize("life", ["calibrating", "loaded"])
def test_fusing_is_refused_before_anything_changes(
    life: str, calibrated_as: Models, pipeline: Any
) -> None:
    found = calibrated_as("exponents")
    state = lora(pipeline.unet, ("to_q", "to_v"))
    pipeline.unet = copy.deepcopy(found.unet)
    if life == "loaded":
        pipeline.unet = load_quantized_unet(found.folder)
    off = call(pipeline.unet, found)
    pipeline.load_lora_weights(state, adapter_name="a")
    on = call(pipeline.unet, found)
    assert not torch.equal(on, off)
    for fuse in (pipeline.fuse_lora, pipeline.unet.fuse_lora):
        with pytest.raises(DGQError, match="cannot take up a LoRA") as refused:
            fuse()
        assert "\n" not in str(refused.value)
    with pytest.raises(DGQError, match="cannot take up a LoRA"):
        pipeline.unet.get_submodule(TO_Q).merge()
    assert torch.equal(call(pipeline.unet, found), on)
    pipeline.unload_lora_weights()
    assert torch.equal(call(pipeline.unet, found), off)


def test_fusing_into_kept_layers_works(calibrated_as: Models, pipeline: Any) -> None:
    found = calibrated_as("exponents")
    state = lora(pipeline.unet, ("conv_in",))
    pipeline.unet = unet = load_quantized_unet(found.folder, "float")
    pipeline.fuse_lora()  # nothing yet
    pipeline.load_lora_weights(state)
    on = call(unet, found)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    torch.testing.assert_close(call(unet, found), on, rtol=1e-3, atol=1e-4)


def test_a_unet_with_adapters_is_not_quantized(pipeline: Any) -> None:
    pipeline.load_lora_weights(lora(pipeline.unet, LEAVES))
    with pytest.raises(DGQError, match="an adapter is loaded into this UNet"):
        quantize_(pipeline.unet, QuantizationSettings(), (1.0,), (8, 8))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    calibrate_(pipeline.unet, QuantizationSettings())


# Training


@pytest.mark.parametrize("by", ["diffusers", "peft"])
def test_an_adapter_learns_on_a_frozen_quantized_unet_and_is_saved(
    by: str, calibrated_as: Models, tmp_path: Path
) -> None:
    found = calibrated_as("exponents")
    unet = load_quantized_unet(found.folder, "float")
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    if by == "diffusers":
        unet.add_adapter(adapter(init_lora_weights="gaussian"))
    else:
        peft.inject_adapter_in_model(adapter(init_lora_weights="gaussian"), unet)
    unet.enable_gradient_checkpointing()
    unet.train()
    learning = [p for p in unet.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in learning)
    optimizer, losses = torch.optim.Adam(learning, 1e-2), []
    for _ in range(12):
        loss = (unet(**found.call)[0] - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    unet.eval()
    trained = call(unet, found)
    unet.save_lora_adapter(tmp_path)
    again = load_quantized_unet(found.folder, "float")
    again.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    assert torch.equal(call(again, found), trained)
    again.unload_lora()
    assert all(torch.equal(before[name], tensor) for name, tensor in again.state_dict().items())


def test_training_on_integers_is_refused(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder)
    if not any("IntegerLayer" in type(module).__name__ for module in unet.modules()):
        pytest.skip("no integer products on this machine")
    unet.add_adapter(adapter())
    with pytest.raises(DGQError, match="integer products have no gradients"):
        unet(**calibrated_as("exponents").call)


def test_gradients_are_those_of_the_dequantized_layer(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("w4a16").folder, "float")
    unet.load_lora_adapter(lora(micro_unet(), ("conv1",)), prefix="unet")
    name = "mid_block.resnets.0.conv1"
    layer = unet.get_submodule(name)
    assert isinstance(layer.base_layer, PackedLayer)
    x = torch.randn(1, 16, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    (adapter_name,) = layer.lora_A
    down, up = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    merged = layer.base_layer.operands()[0] + torch.einsum("oryz,rihw->oihw", up, down)
    twin = x.detach().requires_grad_()
    nn.functional.conv2d(twin, merged, padding=1).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-4, atol=1e-5)
