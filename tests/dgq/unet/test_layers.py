"""Quantized layers against stock ones, and against weights and inputs quantized separately."""

import pytest
import torch
from torch import Tensor, nn

from dgq.settings import ActivationSettings, QuantizationSettings, WeightSettings
from dgq.unet.context import QuantizationContext
from dgq.unet.layers import QuantConv2d, QuantizedLayer, QuantLinear, quantized_layers

STOCK: dict[str, tuple[nn.Linear | nn.Conv2d, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (2, 7, 6)),
    "linear without bias": (nn.Linear(6, 5, bias=False), (3, 6)),
    "convolution": (nn.Conv2d(6, 5, 3, padding=1), (2, 6, 5, 4)),
    "strided": (nn.Conv2d(6, 4, (3, 1), stride=(2, 1), padding=(1, 0), bias=False), (2, 6, 6, 4)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, dilation=2), (2, 6, 7, 7)),
    "circular": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (2, 6, 4, 4)),
}
SETTINGS = QuantizationSettings(WeightSettings(4), ActivationSettings(8, n_groups=2))


def quantized(
    stock: nn.Linear | nn.Conv2d, settings: QuantizationSettings = SETTINGS
) -> QuantLinear | QuantConv2d:
    context = QuantizationContext([0], (4, 4))
    if isinstance(stock, nn.Linear):
        return QuantLinear(stock, settings.weights, settings.activations, context)
    return QuantConv2d(stock, settings.weights, settings.activations, context)


def calibrate_(layer: QuantizedLayer, x: Tensor) -> None:
    """Ranges from one input, weights rounded to nearest."""
    assert layer.input_quantizer is not None
    layer.input_quantizer.start_observing_()
    layer.context.weights = layer.context.activations = False
    layer.context.observing = True
    layer(x)
    layer.context.weights = layer.context.activations = True
    layer.context.observing = False
    layer.input_quantizer.fit_()
    layer.start_learning_()
    layer.harden_()


@pytest.mark.parametrize("name", STOCK)
def test_switched_off_equals_stock_before_and_after_calibration(name: str) -> None:
    stock, shape = STOCK[name]
    layer, x = quantized(stock), torch.randn(shape)
    with torch.no_grad():
        expected = stock(x)
        calibrate_(layer, x)
        layer.context.weights = layer.context.activations = False
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("name", STOCK)
def test_switched_on_computes_with_the_quantized_operands(name: str) -> None:
    stock, shape = STOCK[name]
    layer, x = quantized(stock), torch.randn(shape)
    calibrate_(layer, x)
    assert layer.input_quantizer is not None
    assert layer.weight_quantizer is not None
    weight, _ = layer.weight_quantizer(None)
    twin = type(stock).__new__(type(stock))
    twin.__dict__ = {**stock.__dict__, "_parameters": dict(stock._parameters)}
    twin.weight = nn.Parameter(weight)
    with torch.no_grad():
        found = layer(x)
        torch.testing.assert_close(found, twin(layer.input_quantizer(x)))
        assert not torch.allclose(found, stock(x), atol=1e-4)


def test_it_is_the_stock_type_with_the_stock_parameters() -> None:
    stock = nn.Conv2d(3, 4, 3, bias=False)
    layer = quantized(stock)
    assert isinstance(layer, nn.Conv2d)
    assert layer.weight is stock.weight
    assert layer.bias is None


def test_16_bits_have_no_weight_quantizer_and_count_as_floating_point() -> None:
    settings = QuantizationSettings(WeightSettings(16), ActivationSettings(16))
    layer, x = quantized(nn.Linear(4, 4), settings), torch.randn(2, 4)
    assert layer.weight_quantizer is None
    assert (layer.weight_bits, layer.activation_bits) == (32, 32)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_bits_are_those_of_the_settings() -> None:
    layer = quantized(nn.Linear(4, 4))
    assert (layer.weight_bits, layer.activation_bits) == (4, 8)


def test_layers_are_listed_by_name() -> None:
    model = nn.Sequential(quantized(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(quantized_layers(model)) == ["0"]
