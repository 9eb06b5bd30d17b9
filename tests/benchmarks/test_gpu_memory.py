"""The account of a UNet's memory on a GPU, against what its layers need."""

import json
from math import prod
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from benchmarks.gpu_memory import count, fill_randomly_, main, prepare_for_gpu_
from benchmarks.inference.full_size import SETTINGS, TIMESTEPS
from benchmarks.unet_configs import TINY
from dgq.inference.channel_input import ChannelInput
from dgq.inference.integer_layer import IntegerLayer
from dgq.inference.weight_unit import unit_of
from dgq.inspection.memory import resident_bytes

STEPS = len(TIMESTEPS)
OF_CHANNEL = 2 * STEPS + 2 + 4 + 4 + 1
"""Bytes: zero points, multiple, the same and a factor for the kernel, a factor of the weight."""

OF_STEP = 4
"""Bytes: the scale of an input."""

OF_OUTPUT = 4 * STEPS + 4 + 4 + 4 + 1
"""Bytes: folded biases, scale, the same for the kernel, zero point, the same for the kernel."""


@pytest.mark.parametrize("flat", [False, True])
@torch.no_grad()
def test_nothing_but_what_layers_need_is_held(flat: bool) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**TINY).eval()
    fill_randomly_(unet, SETTINGS, TIMESTEPS, (16, 16), flat)
    prepare_for_gpu_(unet)
    needed = 0
    for module in unet.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
            needed += sum(2 * parameter.numel() for parameter in module.parameters())
        if isinstance(module, ChannelInput):
            needed += OF_CHANNEL * module.channels + OF_STEP * STEPS
        if isinstance(module, IntegerLayer):
            out, channels, *kernel = module.geometry.weight_shape
            groups = 0 if flat else -(-channels * prod(kernel) // SETTINGS.weights.group_size)
            needed += out * (channels // 2 * prod(kernel) + groups + OF_OUTPUT)
            needed += 0 if module.bias is None else 4 * out
    units = [*filter(None, map(unit_of, unet.modules()))]
    assert units
    needed += sum(4 * (u.packed.layers.numel() + u.packed.programs.numel()) for u in units)
    # Between the parts of units, which begin at multiples of 16.
    between = sum(15 * 4 * len(unit.weights) for unit in units)
    assert needed <= resident_bytes(unet) <= needed + between


def test_the_account_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "tiny", "--json", str(tmp_path / "memory.json")])
    figures = json.loads((tmp_path / "memory.json").read_text())
    assert figures == count(TINY)
    assert sum(kind["bytes"] for kind in figures["kinds"]) == figures["bytes"]
    assert "folded_bias" in capsys.readouterr().out
    fewer = count(TINY, steps=4)["bytes"]
    biases = sum(kind["bytes"] for kind in figures["kinds"] if kind["name"] == "folded_bias")
    assert 0 < 21 / 25 * biases < figures["bytes"] - fewer < 2 * biases
    with torch.device("meta"):
        stock = UNet2DConditionModel(**TINY)
    exact = sum(2 * parameter.numel() for parameter in stock.parameters())
    n_tensors = len([*stock.parameters()])
    assert 0 <= figures["bytes_of_bf16"] - exact < 512 * n_tensors
