"""A UNet without values is built in one thread without any effect on what other threads create."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

import dgq
from dgq.storage.checkpoint import save_quantized
from dgq.unet.as_configured import check_as_configured
from tests.model_zoo import micro
from tests.quantized_models import Calibrated


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices of what another thread creates while a UNet is being built."""
    found: list[str] = []
    build: Callable[..., Any] = UNet2DConditionModel._set_time_proj

    def create() -> None:
        made = (torch.zeros(1), torch.full((1,), 2.0), nn.Linear(2, 2).weight)
        found.extend(tensor.device.type for tensor in made)

    def beside(unet: Any, *args: Any, **kwargs: Any) -> Any:
        thread = threading.Thread(target=create)
        thread.start()
        thread.join()
        return build(unet, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "_set_time_proj", beside)
    return found


def test_other_threads_create_tensors_as_ever(
    calibrated_as: Callable[[str], Calibrated], devices: list[str], tmp_path: Path
) -> None:
    model = calibrated_as("multiples")
    dgq.load_quantized_unet(model.folder)
    save_quantized(model.unet, tmp_path, dgq.read_manifest(model.folder))
    dgq.model_card(model.folder)
    check_as_configured(micro())
    assert set(devices) == {"cpu"}
