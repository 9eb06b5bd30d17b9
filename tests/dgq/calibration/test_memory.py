"""What waits is counted without computing, and compared with what is free."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from dgq.calibration.host_memory import free_host_bytes
from dgq.calibration.memory import WaitingBytes, waiting_bytes
from dgq.recipes import Custom
from dgq.settings import QuantizationSettings
from dgq.streams.streaming import Stream
from dgq.targets import execution_order, find_blocks
from dgq.unet.context import quantization
from dgq.unet.quantize import quantize_
from tests.tiny_pipelines import micro_unet, unet_call


@torch.no_grad()
def test_what_is_weighed_on_the_meta_device_is_what_waits() -> None:
    unet, settings = micro_unet(), QuantizationSettings()
    one = unet_call(unet, 1, 5.0)
    found = waiting_bytes(unet, Custom(settings), one, (8, 8))
    quantize_(unet, settings, (5.0,), (8, 8))
    with quantization(unet, weights=False, activations=False):
        targets = find_blocks(unet, settings.keep)
        order = execution_order(unet, targets, one)
        counters = [WaitingBytes(unet), WaitingBytes(unet)]
        calls = [one, unet_call(unet, 3, 5.0)]
        with Stream(unet, {n: targets[n] for n in order}, calls, iter(counters)) as stream:
            while stream.advance() is not None:
                pass
    # The skip connections of 8x8 latents alone: two of 8 channels.
    assert found > 2 * 8 * 64 * 4
    small = 2**10  # timesteps are scalars here and there
    assert abs(counters[0].n_bytes - found) < small
    assert abs(counters[1].n_bytes - 3 * found) < 3 * small


def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * 2**10))
    assert free_host_bytes(tmp_path) == 8 * 2**10
    (tmp_path / "memory.current").write_text("100\n")
    for limit, expected in (("max", 8192), ("1100", 1000), ("50", 0), ("999999", 8192)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_host_bytes(tmp_path) == expected


def test_what_is_free_here_is_of_a_likely_size(tmp_path: Path) -> None:
    assert 2**28 < free_host_bytes(tmp_path / "none") < 2**50
    assert 0 < free_host_bytes() < 2**50
