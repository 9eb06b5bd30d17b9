"""Packed layers in floating point: what they compute, show and refuse."""

import pytest
import torch
from torch import nn

from dgq.errors import DGQError
from dgq.inference.freeze import frozen, narrow, renamed
from dgq.inference.layers import PackedLayer
from dgq.math.packing import pack_codes
from dgq.settings import ActivationSettings, QuantizationSettings, WeightSettings
from dgq.unet.context import QuantizationContext
from dgq.unet.geometry import ConvGeometry, LinearGeometry, geometry_of
from dgq.unet.layers import QuantConv2d, QuantizedLayer, QuantLinear

STOCK: dict[str, tuple[nn.Linear | nn.Conv2d, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "linear without bias": (nn.Linear(7, 5, bias=False), (2, 3, 7)),
    "strided": (nn.Conv2d(5, 4, 3, stride=2, padding=1), (2, 5, 7, 6)),
    "grouped": (nn.Conv2d(6, 4, (3, 1), groups=2, dilation=2, padding=(2, 0)), (2, 6, 7, 6)),
    "valid": (nn.Conv2d(5, 4, 3, padding="valid"), (2, 5, 7, 6)),
}


def quantized(stock: nn.Linear | nn.Conv2d, settings: QuantizationSettings) -> QuantizedLayer:
    context = QuantizationContext([0], (8, 8))
    kind = QuantLinear if isinstance(stock, nn.Linear) else QuantConv2d
    own = settings.weights, settings.activations
    layer = kind(stock, *own, context)  # type: ignore[arg-type]
    layer.start_learning_()
    layer.harden_()
    return layer


@pytest.mark.parametrize("n_bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", STOCK)
@torch.no_grad()
def test_a_packed_layer_equals_the_calibrated_one_bit_for_bit(
    n_bits: int, grouped: bool, name: str
) -> None:
    stock, shape = STOCK[name]
    weights = WeightSettings(n_bits, "minmax", group_size=4 * grouped, max_exponent=2 * grouped)
    settings = QuantizationSettings(weights, ActivationSettings(16))
    layer, x = quantized(stock, settings), torch.randn(shape)
    has_bias = stock.bias is not None
    packed = PackedLayer(geometry_of(stock, name), None, 32, weights=weights, has_bias=has_bias)
    state = {
        k.removeprefix("weight_quantizer."): t
        for k, t in layer.state_dict().items()
        if k.startswith("weight_quantizer.") and "learnable" not in k and t.numel()
    }
    packed.load_state_dict(state)
    assert packed.problem() is None
    assert torch.equal(packed(x), layer(x))
    assert f"W{n_bits}A32" in repr(packed)
    assert (packed.weight_bits, packed.activation_bits) == (n_bits, 32)
    assert packed.fan_in == stock.weight[0].numel()


@pytest.mark.parametrize("n_bits", range(2, 9))
def test_codes_of_earlier_files_are_packed_without_gaps(n_bits: int) -> None:
    """Up to 4 bits two codes took a byte, above that each took one."""
    layer = PackedLayer(
        LinearGeometry(9, 2), None, 32, weights=WeightSettings(n_bits), has_bias=False
    )
    layer.store("scale", torch.ones(2))
    layer.store("zero_point", torch.zeros(2))
    codes = torch.randint(0, 2**n_bits, (2, 9), generator=torch.Generator().manual_seed(0))
    layer.store("codes", pack_codes(codes, 4 if n_bits <= 4 else 8))
    layer.settle_()
    assert layer.problem() is None
    assert torch.equal(layer.codes, pack_codes(codes, n_bits))
    assert torch.equal(layer.operands()[0].long(), codes)


def test_a_code_beyond_its_bits_in_an_earlier_file_stays_and_is_refused() -> None:
    layer = PackedLayer(LinearGeometry(9, 2), None, 32, weights=WeightSettings(3), has_bias=False)
    layer.store("codes", pack_codes(torch.full((2, 9), 8), 4))
    layer.store("scale", torch.ones(2))
    layer.store("zero_point", torch.zeros(2))
    layer.settle_()
    assert layer.codes.shape == (2, 5)
    assert "codes is (2, 5), expected (2, 4)" in (layer.problem() or "")


@pytest.mark.parametrize(
    ("multiple", "problem"),
    [
        ([1, 2, 256], None),
        ([0, 2, 256], "an absorbed multiple"),
        ([1, 2, 257], "an absorbed multiple"),
        ([1.5, 2.0, 3.0], "an absorbed multiple"),
        ([1, 2], r"multiple is (2,), expected (3,)"),
    ],
)
def test_multiples_that_a_weight_absorbed_are_whole_numbers_of_a_byte(
    multiple: list[float], problem: str | None
) -> None:
    settings = WeightSettings(8, symmetric=True, absorbs=True)
    layer = PackedLayer(LinearGeometry(3, 2), None, 8, weights=settings, has_bias=False)
    layer.store("codes", torch.full((2, 3), 129, dtype=torch.uint8))
    layer.store("scale", torch.tensor([1.0, 0.5]))
    layer.store("zero_point", torch.full((2,), 128.0))
    whole = all(isinstance(value, int) for value in multiple)
    layer.store("multiple", torch.tensor(multiple, dtype=torch.int16 if whole else torch.float32))
    found = layer.problem()
    if problem is not None:
        assert problem in (found or "")
        return
    assert found is None
    expected = torch.tensor([1.0, 0.5])[:, None] / torch.tensor(multiple)
    assert torch.equal(layer.operands()[0], expected)


def test_geometry_is_that_of_the_stock_layer() -> None:
    conv = nn.Conv2d(6, 4, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    geometry = geometry_of(conv, "conv")
    assert geometry == ConvGeometry(6, 4, (3, 1), (2, 1), (1, 0), (1, 2), 2)
    assert geometry.weight_shape == tuple(conv.weight.shape)
    assert geometry.pads
    assert not geometry_of(nn.Conv2d(2, 2, 3, padding="valid"), "conv").pads
    assert geometry_of(nn.Linear(3, 2), "linear") == LinearGeometry(3, 2)


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Conv2d(2, 2, 3, padding="same")],
)
def test_padding_by_anything_but_zeros_is_refused(conv: nn.Conv2d) -> None:
    with pytest.raises(DGQError, match=r"down\.conv pads by .*expected zeros"):
        geometry_of(conv, "down.conv")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a.conv1.weight_quantizer.codes", "a.conv1.codes"),
        ("a.conv1.input_quantizer.scale", "a.conv1.input_quantizer.scale"),
        ("a.attn1.processor.hidden.scale", "a.attn1.input_quantizer.scale"),
        ("a.attn2.processor.text.axis", "a.attn2.context_quantizer.axis"),
        ("a.attn2.processor.scores.scale", "a.attn2.score_quantizer.scale"),
        ("a.attn2.processor.value.scale", "a.attn2.value_quantizer.scale"),
        ("conv_in.weight", "conv_in.weight"),
    ],
)
def test_names_of_either_format_become_those_of_inference(before: str, after: str) -> None:
    assert renamed(before) == after


def test_zero_points_take_16_bits_where_they_fit() -> None:
    assert narrow(torch.tensor([-32767, 32767])).dtype == torch.int16
    wide = narrow(torch.tensor([-32769, 3], dtype=torch.int32))
    assert wide.tolist() == [-32769, 3]
    assert wide.dtype == torch.int32


def test_one_group_of_all_is_stored_as_channels_with_everything_in_common() -> None:
    per_tensor = QuantizationSettings(activations=ActivationSettings(8, n_groups=1))
    tensors = {
        "scale": torch.tensor([[0.5], [0.25]]),
        "zero_point": torch.tensor([[3], [4]], dtype=torch.int32),
        "group_index": torch.zeros(2, 1, dtype=torch.uint8),
        "axis": torch.tensor(0, dtype=torch.uint8),
    }
    found = frozen("conv.input_quantizer", tensors, per_tensor)
    assert found["scale"].tolist() == [0.5, 0.25]
    assert found["zero_point"].tolist() == [[3], [4]]
    assert found["multiple"].tolist() == [1]
    assert found["multiple"].dtype == torch.int16
    assert found.keys() == {"scale", "zero_point", "multiple"}
