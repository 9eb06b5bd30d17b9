"""What pipelines do to attention processors leaves quantized attention as it is, or is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models import attention_processor as stock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.errors import DGQError
from dgq.inference.input_quantizers import GroupedInput
from dgq.pipelines.loading import load_pipeline
from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.attention import QuantizedAttention
from dgq.unet.processors import QuantAttnProcessor
from tests.quantized_models import SETTINGS, TIMESTEPS, Calibrated
from tests.tiny_pipelines import calibrate_, micro_unet

Models = Callable[[str], Calibrated]


@pytest.fixture(params=["calibrating", "loaded"])
def model(request: pytest.FixtureRequest, calibrated_as: Models) -> tuple[Any, Calibrated]:
    """A UNet of its own in each life."""
    found = calibrated_as("kmeans")
    if request.param == "loaded":
        return load_quantized_unet(found.folder), found
    return copy.deepcopy(found.unet), found


def given_back(unet: Any) -> None:
    unet.set_attn_processor(unet.attn_processors)


HARMLESS: dict[str, Callable[[Any], object]] = {
    "AttnProcessor": lambda unet: unet.set_attn_processor(stock.AttnProcessor()),
    "AttnProcessor2_0": lambda unet: unet.set_attn_processor(stock.AttnProcessor2_0()),
    "SlicedAttnProcessor": lambda unet: unet.set_attn_processor(stock.SlicedAttnProcessor(1)),
    "xformers": lambda unet: unet.set_attn_processor(stock.XFormersAttnProcessor()),
    "default": lambda unet: unet.set_default_attn_processor(),
    "sliced": lambda unet: unet.set_attention_slice("auto"),
    "given back": given_back,
    "fused": lambda unet: unet.fuse_qkv_projections(),
    "fused and back": lambda unet: (unet.fuse_qkv_projections(), unet.unfuse_qkv_projections()),
    "attribute": lambda unet: setattr(
        unet.mid_block.attentions[0].transformer_blocks[0].attn1,
        "processor",
        stock.AttnProcessor2_0(),
    ),
}


@pytest.mark.parametrize("change", HARMLESS)
@torch.no_grad()
def test_equivalent_processors_leave_quantizers_and_outputs_as_they_are(
    change: str, model: tuple[Any, Calibrated]
) -> None:
    unet, found = model
    before = set(unet.state_dict())
    HARMLESS[change](unet)
    assert set(unet.state_dict()) == before
    assert torch.equal(unet(**found.call)[0], found.output)
    assert {type(p) for p in unet.attn_processors.values()} == {QuantAttnProcessor}


@torch.no_grad()
def test_what_a_pipeline_switches_keeps_the_quantizers(
    micro_folder: Any, calibrated_as: Models
) -> None:
    found = calibrated_as("kmeans")
    pipeline = load_pipeline(str(micro_folder))
    pipeline.unet = load_quantized_unet(found.folder)
    for switch in (pipeline.enable_attention_slicing, pipeline.disable_attention_slicing):
        switch()
        assert torch.equal(pipeline.unet(**found.call)[0], found.output)


class CustomProcessor:
    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any) -> Tensor:
        return hidden_states


REFUSED: dict[str, Callable[[Any], object]] = {
    "IP-Adapter": lambda unet: unet.set_attn_processor(stock.IPAdapterAttnProcessor2_0(16, 16)),
    "PAG": lambda unet: unet.set_attn_processor(stock.PAGIdentitySelfAttnProcessor2_0()),
    "custom": lambda unet: unet.set_attn_processor(CustomProcessor()),
    "of one": lambda unet: unet.set_attn_processor(
        unet.attn_processors | {next(iter(unet.attn_processors)): CustomProcessor()}
    ),
}


@pytest.mark.parametrize("change", REFUSED)
@torch.no_grad()
def test_other_ways_of_attention_are_refused_in_one_line(
    change: str, model: tuple[Any, Calibrated]
) -> None:
    unet, found = model
    with pytest.raises(DGQError) as refused:
        REFUSED[change](unet)
    assert "\n" not in str(refused.value)
    assert torch.equal(unet(**found.call)[0], found.output)


def test_an_ip_adapter_is_refused_before_anything_changes(calibrated_as: Models) -> None:
    found = calibrated_as("kmeans")
    unet = load_quantized_unet(found.folder)
    projections = {"proj.weight": torch.zeros(4 * 16, 8), "proj.bias": torch.zeros(64)}
    projections |= {"norm.weight": torch.ones(16), "norm.bias": torch.zeros(16)}
    keys = {f"{i}.to_{x}_ip.weight": torch.zeros(16, 16) for i in range(1, 17) for x in "kv"}
    with pytest.raises(DGQError, match="IPAdapterAttnProcessor"):
        unet._load_ip_adapter_weights([{"image_proj": projections, "ip_adapter": keys}])
    with torch.no_grad():
        assert torch.equal(unet(**found.call)[0], found.output)


@torch.no_grad()
def test_arguments_that_would_change_attention_are_refused(model: tuple[Any, Calibrated]) -> None:
    unet, found = model
    with pytest.raises(DGQError, match="does not know 'ip_adapter_masks'"):
        unet(**found.call, cross_attention_kwargs={"ip_adapter_masks": [torch.ones(1)]})
    for harmless in ({"scale": 0.5}, {"ip_adapter_masks": None}, None, {}):
        output = unet(**found.call, cross_attention_kwargs=harmless)[0]
        assert torch.equal(output, found.output)


# Attention that is given more tokens


FLOAT_ACTIVATIONS = QuantizationSettings(
    WeightSettings(4, "minmax"), ActivationSettings(16), ScoreSettings(16)
)


def stock_twin(attention: QuantizedAttention) -> Attention:
    """A stock attention with the same dequantized weights."""
    heads = attention.heads
    twin = Attention(16, heads=heads, dim_head=attention.inner_dim // heads)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        layer: Any = attention.get_submodule(name)
        weight, bias = layer.weight_quantizer(layer.bias)
        stock_layer = twin.get_submodule(name)
        assert isinstance(stock_layer, nn.Linear)
        stock_layer.weight.data = weight
        if bias is not None:
            stock_layer.bias.data = bias
    return twin.eval()


@torch.no_grad()
def test_further_keys_of_self_attention_are_used_as_a_stock_attention_does() -> None:
    unet = calibrate_(micro_unet(), FLOAT_ACTIVATIONS, TIMESTEPS)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    twin = stock_twin(attention)
    x, bank = torch.randn(2, 16, 16), 3 * torch.randn(2, 16, 16)
    both = torch.cat([x, bank], 1)
    torch.testing.assert_close(attention(x), twin(x), rtol=1e-5, atol=1e-5)
    more = attention(x, encoder_hidden_states=both)
    torch.testing.assert_close(more, twin(x, encoder_hidden_states=both), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(more, attention(x), atol=1e-3)


@pytest.mark.parametrize("name", ["pixels", "exponents", "per-tensor"])
@pytest.mark.parametrize("execution", ["float", "auto"])
@torch.no_grad()
def test_further_keys_are_quantized_as_the_others(
    name: str, execution: Any, calibrated_as: Models
) -> None:
    unet = load_quantized_unet(calibrated_as(name).folder, execution, torch.float32)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    if name == "pixels":
        for quantizer in (m for m in attention.children() if isinstance(m, GroupedInput)):
            group_index = (torch.arange(16) % 3).to(torch.uint8)
            quantizer.store("group_index", group_index.expand(3, 16))
            quantizer.on_pixels = True
    x = torch.randn(2, 16, 16)
    twice = attention(x, encoder_hidden_states=torch.cat([x, x], 1))
    torch.testing.assert_close(twice, attention(x), rtol=1e-3, atol=1e-3)  # softmax sees doubles
    other = attention(x, encoder_hidden_states=torch.cat([x, 3 * x.flip(1)], 1))
    assert not torch.allclose(other, attention(x), atol=1e-3)


@torch.no_grad()
def test_cross_attention_without_a_text_quantizes_its_input_as_a_text() -> None:
    unet = calibrate_(micro_unet(), SETTINGS["exponents"], TIMESTEPS)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    x = torch.randn(2, 16, 16)  # as wide as the text
    assert torch.equal(attention(x), attention(x, encoder_hidden_states=x))
