"""Modes and steps of a UNet under calibration, and which UNets have none."""

import pytest
import torch
from torch import nn

from dgq.errors import DGQError
from dgq.settings import QuantizationSettings
from dgq.unet.context import at_step, context_of
from dgq.unet.quantize import quantize_
from tests.tiny_pipelines import micro_unet


def test_a_stock_unet_has_no_context() -> None:
    with pytest.raises(DGQError, match="not quantized"):
        context_of(nn.Linear(2, 2))


def test_a_part_runs_at_the_latent_size_of_the_call_it_is_in() -> None:
    unet = quantize_(micro_unet(), QuantizationSettings(), (801.0, 1.0), (8, 8))
    context = context_of(unet)
    context.begin(torch.zeros(2, 4, 6, 10), 1.0)
    with at_step(context, torch.tensor([0])):
        assert (context.step.tolist(), context.current_size) == ([0], (6, 10))
    assert context.step.tolist() == [1]
    context.current = None
    with at_step(context, torch.tensor([1])):
        assert (context.step.tolist(), context.current_size) == ([1], (8, 8))
