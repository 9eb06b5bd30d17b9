"""A dequantized UNet is a stock one, with nothing left of what made it quantized."""

from collections.abc import Callable

import pytest
import torch

import dgq
from dgq.storage.checkpoint import load_quantized_unet
from tests.quantized_models import Calibrated
from tests.tiny_pipelines import micro_unet


@pytest.mark.parametrize("name", ["exponents", "kmeans", "split skips"])
@torch.no_grad()
def test_its_modules_have_the_classes_and_attributes_of_stock_ones(
    name: str, calibrated_as: Callable[[str], Calibrated]
) -> None:
    unet = dgq.dequantize(load_quantized_unet(calibrated_as(name).folder, dtype=torch.float32))
    stock, found = dict(micro_unet().named_modules()), dict(unet.named_modules())
    assert found.keys() == stock.keys()
    for module, expected in stock.items():
        assert type(found[module]) is type(expected)
        left = vars(found[module]).keys() - vars(expected).keys()
        assert left <= {"is_quantized"}, module  # which diffusers asks of every model
