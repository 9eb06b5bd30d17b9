"""Attention processors that pipelines bring along, and parts that are copied into stock models."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from dgq.errors import DGQError
from dgq.inference.execution import prepare_
from dgq.inference.layers import FrozenLayer
from dgq.storage.checkpoint import load_quantized_unet
from dgq.storage.dequantize import dequantize
from tests.on_top.loras import lora
from tests.on_top.uses import ip_adapter_state
from tests.quantized_models import SETTINGS, Calibrated, decibels
from tests.tiny_pipelines import calibrate_, micro_unet

Models = Callable[[str], Calibrated]


class OwnProcessor(AttnProcessor2_0):
    """Computes as the stock one, and is not known to."""


class ModuleProcessor(nn.Module):
    """The same with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def __call__(self, attn: Any, hidden_states: torch.Tensor, **more: Any) -> torch.Tensor:
        return self.gain * AttnProcessor2_0()(attn, hidden_states, **more)


class ZeroProcessor:
    """Takes attention away."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


@pytest.mark.parametrize("execution", ["float", "auto"])
@pytest.mark.parametrize("name", ["exponents", "exponents a6", "pixels", "kept projections"])
@pytest.mark.parametrize("kind", [OwnProcessor, ModuleProcessor])
@torch.no_grad()
def test_a_processor_that_computes_the_same_on_quantized_projections_gives_the_same(
    kind: Any, name: str, execution: Any, calibrated_as: Models
) -> None:
    found = calibrated_as(name)
    unet = load_quantized_unet(found.folder, execution, torch.float32)
    expected, names = unet(**found.call)[0], list(unet.state_dict())
    unet.set_attn_processor({n: kind() for n in unet.attn_processors})
    assert {type(p) for p in unet.attn_processors.values()} == {kind}
    # Sums in another order may reach another code here and there.
    assert decibels(expected, unet(**found.call)[0]) > 35
    copied = copy.deepcopy(unet)
    assert {type(p) for p in copied.attn_processors.values()} == {kind}
    unet.set_attn_processor(AttnProcessor2_0())
    assert torch.equal(unet(**found.call)[0], expected)
    assert list(unet.state_dict()) == names


class Doubling(AttnProcessor2_0):
    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return 2 * super().__call__(*args, **kwargs)


@torch.no_grad()
def test_a_processor_with_the_name_of_a_stock_one_computes(calibrated_as: Models) -> None:
    found = calibrated_as("exponents")
    unet = load_quantized_unet(found.folder)
    expected = unet(**found.call)[0]
    named = type("AttnProcessor2_0", (ZeroProcessor,), {})
    unet.set_attn_processor(named())
    assert not torch.equal(unet(**found.call)[0], expected)
    unet.set_default_attn_processor()
    assert torch.equal(unet(**found.call)[0], expected)
    with pytest.raises(DGQError, match="without the quantizer of the scores"):
        load_quantized_unet(calibrated_as("kmeans").folder).set_attn_processor(named())


@torch.no_grad()
def test_the_processor_computes_and_nobody_else(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, "float")
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    x, text = torch.randn(2, 16, 16), torch.randn(2, 77, 16)
    alone = attention(x, encoder_hidden_states=text)
    attention.set_processor(Doubling())
    doubled = attention(x, encoder_hidden_states=text)
    torch.testing.assert_close(doubled, 2 * alone, rtol=1e-2, atol=1e-2)


def test_samples_of_different_steps_are_not_taken_apart(calibrated_as: Models) -> None:
    class Halving(AttnProcessor2_0):
        def __call__(self, attn: Any, hidden_states: torch.Tensor, **more: Any) -> torch.Tensor:
            half = super().__call__(attn, hidden_states.chunk(2)[0])
            return torch.cat([half, half])

    unet = load_quantized_unet(calibrated_as("exponents").folder)
    own = {n: Halving() if "attn1" in n else p for n, p in unet.attn_processors.items()}
    unet.set_attn_processor(own)
    call = calibrated_as("exponents").call
    with torch.no_grad():
        unet(**call)
        with pytest.raises(DGQError, match="different steps separately"):
            unet(**call | {"timestep": torch.tensor([801.0, 1.0])})


def test_all_processors_are_set_or_none(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("kmeans").folder)
    before = unet.attn_processors
    last = list(before)[-1]
    with pytest.raises(DGQError, match="without the quantizer of the scores"):
        unet.set_attn_processor(
            {n: OwnProcessor() if n == last else AttnProcessor2_0() for n in before}
        )
    assert [type(p) for p in unet.attn_processors.values()] == [type(p) for p in before.values()]


def test_an_ip_adapter_is_not_lost_by_quantizing() -> None:
    unet = micro_unet()
    unet._load_ip_adapter_weights([ip_adapter_state(unet)])
    with pytest.raises(DGQError, match="is computed by IPAdapterAttnProcessor2_0"):
        calibrate_(unet, SETTINGS["exponents"])


@pytest.mark.parametrize("execution", ["float", "auto"])
def test_an_ip_adapter_leaves_the_precision_of_the_unet_as_it_is(
    execution: Any, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, execution)
    before = {name: tensor.dtype for name, tensor in unet.state_dict().items()}
    state = ip_adapter_state(micro_unet())
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    after = {name: tensor.dtype for name, tensor in unet.state_dict().items()}
    assert {name: after[name] for name in before} == before
    added = {dtype for name, dtype in after.items() if name not in before}
    assert added == {unet.computes_in(torch.float32)}


# Dequantized


@pytest.mark.parametrize("execution", ["float", "auto"])
@torch.no_grad()
def test_what_is_on_top_stays_on_a_dequantized_unet(execution: Any, calibrated_as: Models) -> None:
    pytest.importorskip("peft")
    found = calibrated_as("w4a16")
    unet = load_quantized_unet(found.folder, execution)
    unet.load_lora_adapter(lora(micro_unet()), prefix="unet")
    unet.set_attn_processor({n: OwnProcessor() for n in unet.attn_processors})
    expected = unet(**found.call)[0]
    stock = dequantize(unet)
    assert type(stock) is UNet2DConditionModel
    assert {type(p) for p in stock.attn_processors.values()} == {OwnProcessor}
    assert decibels(expected, stock(**found.call)[0]) > 60
    stock.fuse_lora()
    stock.unload_lora()
    assert decibels(expected, stock(**found.call)[0]) > 60


@torch.no_grad()
def test_layers_with_adapters_multiply_integers_again(calibrated_as: Models) -> None:
    pytest.importorskip("peft")
    found = calibrated_as("exponents")
    unet = load_quantized_unet(found.folder, "auto", torch.float32)
    n_integer = unet.execution.integer_layers
    unet.load_lora_adapter(lora(micro_unet()), prefix="unet")
    expected = unet(**found.call)[0]
    prepare_(unet, "float")
    assert decibels(expected, unet(**found.call)[0]) > 25
    assert prepare_(unet, "auto", torch.float32).integer_layers == n_integer
    assert decibels(expected, unet(**found.call)[0]) > 40  # channels last: sums in another order


# Parts


@pytest.mark.parametrize("execution", ["float", "auto"])
@pytest.mark.parametrize("name", ["exponents", "kmeans", "a8 only"])
def test_parts_give_what_the_layers_multiply_by(
    name: str, execution: Any, calibrated_as: Models
) -> None:
    folder = calibrated_as(name).folder
    unet, packed = load_quantized_unet(folder, execution), load_quantized_unet(folder, "float")
    with pytest.warns(UserWarning, match="given dequantized"):
        net = ControlNetModel.from_unet(unet)
    for layer_name, layer in packed.named_modules():
        if isinstance(layer, FrozenLayer) and layer_name.startswith(("down", "mid", "time")):
            stock = net.get_submodule(layer_name)
            weight, bias = layer.operands()
            assert torch.equal(stock.weight, weight)
            assert bias is None or torch.equal(stock.bias, bias)


def test_the_state_of_a_whole_unet_is_what_is_stored(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, "float")
    names = set(unet.state_dict())
    assert any(name.endswith(".codes") for name in names)
    inside = nn.ModuleDict({"x": unet}).state_dict()
    assert {name.removeprefix("x.") for name in inside} == names


def test_parts_of_a_stock_unet_load_into_each_other(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("exponents").folder, "float")
    stock = micro_unet()
    with pytest.warns(UserWarning, match="given dequantized"):
        stock.down_blocks.load_state_dict(unet.down_blocks.state_dict())
    with pytest.warns(UserWarning, match="given dequantized"):
        stock.up_blocks[0].load_state_dict(unet.up_blocks[0].state_dict())


def test_parts_are_not_copied_with_adapters_around_layers(calibrated_as: Models) -> None:
    pytest.importorskip("peft")
    unet = load_quantized_unet(calibrated_as("exponents").folder)
    unet.load_lora_adapter(lora(micro_unet(), ("to_q",)), prefix="unet")
    with pytest.raises(DGQError, match="while adapters are on it"):
        ControlNetModel.from_unet(unet)


def test_layerwise_casting_stores_what_is_kept_in_eight_bits(
    calibrated_as: Models, micro_folder: Path
) -> None:
    found = calibrated_as("exponents")
    for dtype in (torch.float32, torch.bfloat16):
        unet: UNet2DConditionModel = load_quantized_unet(found.folder, dtype=dtype)
        with torch.no_grad():
            before = unet(**found.call)[0]
            unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn)
            assert unet.conv_in.weight.dtype == torch.float8_e4m3fn
            after = unet(**found.call)[0]
        assert after.dtype == before.dtype
        assert decibels(before, after) > 15
