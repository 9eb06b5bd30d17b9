"""A UNet that was changed since it was loaded: saved so that it can be loaded, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from dgq.errors import DGQError
from dgq.storage.checkpoint import load_quantized_unet
from tests.on_top.uses import ip_adapter_state
from tests.quantized_models import Calibrated
from tests.tiny_pipelines import micro_unet

Models = Callable[[str], Calibrated]


def with_ip_adapter(unet: Any) -> None:
    unet._load_ip_adapter_weights([ip_adapter_state(micro_unet())])


def with_more_inputs(unet: Any) -> None:
    unet.conv_in = nn.Conv2d(9, unet.conv_in.out_channels, 3, padding=1)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "own_processor.to_k_ip.0.weight is no part": with_ip_adapter,
    "size mismatch for conv_in.weight": with_more_inputs,
    "conv1.codes is missing": lambda unet: unet.set_submodule(
        "mid_block.resnets.0.conv1", nn.Conv2d(16, 16, 3, padding=1)
    ),
    "extra.bias is no part": lambda unet: setattr(unet, "extra", nn.Linear(2, 2)),
    "bias has values that are not finite": lambda unet: unet.conv_in.bias.fill_(torch.nan),
    r"is offloaded.*remove_all_hooks": lambda unet: cpu_offload(unet, torch.device("cpu")),
}


@pytest.mark.parametrize("why", CHANGES)
@torch.no_grad()
def test_what_could_not_be_loaded_is_not_saved_over_a_model(
    why: str, calibrated_as: Models, tmp_path: Path
) -> None:
    unet = load_quantized_unet(calibrated_as("multiples").folder, dtype=torch.float32)
    unet.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    CHANGES[why](unet)
    with pytest.raises(DGQError, match=why) as refusal:
        unet.save_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@torch.no_grad()
def test_what_was_taken_off_again_does_not_hinder(
    micro_folder: Path, calibrated_as: Models, tmp_path: Path
) -> None:
    model = calibrated_as("multiples")
    pipeline = StableDiffusionPipeline.from_pretrained(micro_folder)
    pipeline.unet = unet = load_quantized_unet(model.folder, dtype=torch.float32)
    expected = unet(**model.call)[0]
    with_ip_adapter(unet)
    pipeline.unload_ip_adapter()
    cpu_offload(unet, torch.device("cpu"))
    pipeline.remove_all_hooks()
    unet.save_pretrained(tmp_path)
    again = UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert torch.equal(again(**model.call)[0], expected)
