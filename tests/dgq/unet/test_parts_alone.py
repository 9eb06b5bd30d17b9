"""Parts of a quantized UNet that compute without it."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch

from dgq import load_quantized_unet
from dgq.unet.calls import OUTSIDE
from tests.quantized_models import Calibrated

Models = Callable[[str], Calibrated]


@pytest.mark.parametrize("mode", ["auto", "float"])
def test_a_copied_block_warns_once_that_it_knows_no_step(mode: str, calibrated_as: Models) -> None:
    model = calibrated_as("exponents")
    unet = load_quantized_unet(model.folder, mode)  # type: ignore[arg-type]
    x = torch.randn(1, unet.mid_block.resnets[0].in_channels, 4, 4)
    embedded = torch.randn(1, unet.time_embedding.linear_2.geometry.out_channels)
    with torch.no_grad():
        unet.mid_block.resnets[0] = copy.deepcopy(unet.mid_block.resnets[0])
        with pytest.warns(UserWarning, match=OUTSIDE[:40]):
            unet(**model.call)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            unet(**model.call)
            unet.mid_block.resnets[0](x, embedded)


@pytest.mark.parametrize("name", ["exponents", "kmeans", "live", "residual"])
def test_a_whole_unet_does_not_warn(name: str, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    unet = load_quantized_unet(model.folder)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        unet(**model.call)
        copy.deepcopy(unet)(**model.call)
