"""Bit operations and bytes against counts made by hand."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from dgq.inspection.cost import Operations, count_operations, parameter_bytes
from dgq.inspection.memory import resident_bytes


class FourBitLinear(nn.Linear):
    weight_bits = 4
    activation_bits = 8


class TwoLayers(nn.Module):
    """A strided, grouped convolution, then a linear layer on its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, kernel_size=(3, 5), stride=2, groups=2, padding=(1, 2))
        self.linear = FourBitLinear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).mean(dim=(2, 3)))


def test_layers_equal_a_count_by_hand() -> None:
    # conv: 2 samples x 6 channels x 4 x 4 pixels, each of 2 input channels x 3 x 5 products
    # linear: 2 samples x 7 outputs of 6 products
    conv, linear = 2 * 6 * 4 * 4 * (2 * 3 * 5), 2 * 7 * 6
    total = count_operations(TwoLayers(), (torch.randn(2, 4, 8, 8),), {})
    assert total.layer_macs == total.macs == conv + linear
    assert total.layer_bops == total.bops == conv * 32 * 32 + linear * 4 * 8
    assert total.attention_macs == 0


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("positional", [False, True])
def test_attention_equals_a_count_by_hand(cross: bool, positional: bool) -> None:
    attention = Attention(8, cross_attention_dim=6 if cross else None, heads=2, dim_head=5)
    bits = SimpleNamespace(query_bits=8, key_bits=6, score_bits=4, value_bits=3)
    for name, value in vars(bits).items():
        setattr(attention, name, value)
    hidden, context = torch.randn(3, 9, 8), torch.randn(3, 7, 6) if cross else None
    args = (hidden, context) if positional else (hidden,)
    kwargs = {} if positional else {"encoder_hidden_states": context}
    total = count_operations(attention, args, kwargs)
    products = 3 * 9 * (7 if cross else 9) * (2 * 5)
    assert total.attention_macs == 2 * products
    assert total.attention_bops == products * (8 * 6 + 4 * 3)


@pytest.mark.parametrize(("keys", "kept"), [(7, 1), (1, 0)])
def test_the_start_token_counts_as_kept(keys: int, kept: int) -> None:
    attention = Attention(8, cross_attention_dim=6, heads=2, dim_head=5)
    bits = {"query_bits": 8, "key_bits": 6, "score_bits": 4, "value_bits": 3, "keep_start": True}
    for name, value in bits.items():
        setattr(attention, name, value)
    total = count_operations(attention, (torch.randn(3, 9, 8), torch.randn(3, keys, 6)), {})
    per_key = 3 * 9 * (2 * 5)
    quantized = (keys - kept) * (8 * 6 + 4 * 3)
    assert total.attention_bops == per_key * (quantized + kept * (8 * 32 + 32 * 3))
    assert total.attention_macs == 2 * per_key * keys


def test_attention_over_pixels_counts_each_pixel_as_a_token() -> None:
    attention = Attention(8, heads=2, dim_head=4)
    total = count_operations(attention, (torch.randn(1, 8, 3, 5),), {})
    assert total.attention_bops == 2 * 15 * 15 * 8 * 32 * 32


def test_hooks_are_removed_even_when_the_call_fails() -> None:
    model = TwoLayers()
    with pytest.raises(RuntimeError):
        count_operations(model, (torch.randn(2, 3, 8, 8),), {})
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_stable_diffusion_costs_what_papers_say() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
        args = torch.empty(2, 4, 64, 64), torch.tensor(1), torch.empty(2, 77, 768)
    step = count_operations(unet, args, {})
    assert step.layer_macs / 2 == pytest.approx(338.6e9, rel=1e-3)
    assert step.layer_bops == pytest.approx(694e12, rel=1e-3)
    assert step.bops == pytest.approx(822.6e12, rel=1e-3)


def test_bytes() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    assert parameter_bytes(model) == 4 * (3 * 5 + 5 + 5 + 5)
    model.register_buffer("packed", torch.zeros(11, dtype=torch.uint8))
    model.half()
    # Half precision: 30 parameters and 10 running statistics; int64 batch counter; 11 codes.
    assert resident_bytes(model) == 2 * (30 + 10) + 8 + 11


def test_operations_add_up() -> None:
    assert Operations(1, 10, 2, 20).macs == 3
    assert Operations(1, 10, 2, 20).bops == 30
