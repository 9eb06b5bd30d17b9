"""What waits is counted without computing, and compared with what is free."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from dgq.calibration.calibrate import checked_waiting, waiting_folder
from dgq.calibration.host_memory import free_host_bytes
from dgq.calibration.memory import WaitingBytes, waiting_bytes
from dgq.errors import DGQError
from dgq.recipes import Custom
from dgq.settings import QuantizationSettings, WaitingSettings
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
    own = tmp_path / "none"
    assert free_host_bytes(tmp_path, own) == 8 * 2**10
    (tmp_path / "memory.current").write_text("100\n")
    for limit, expected in (("max", 8192), ("1100", 1000), ("50", 0), ("999999", 8192)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_host_bytes(tmp_path, own) == expected


@pytest.mark.parametrize(
    ("folder", "names", "line"),
    [
        ("job/step", ("memory.max", "memory.current", "inactive_file"), "0::/job/step/task"),
        ("", ("memory.max", "memory.current", "inactive_file"), "0::/"),
        (
            "memory/docker",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "4:memory:/docker/1:2\n1:cpu:/",
        ),
        (
            "memory",  # a container's own is mounted there, and named as outside
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "4:memory:/docker/1",
        ),
    ],
)
def test_any_group_around_this_process_limits_it_and_cached_files_are_free(
    folder: str,
    names: tuple[str, str, str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    limit, used, cached = names
    group, own = tmp_path / "groups" / folder, tmp_path / "cgroup"
    group.mkdir(parents=True)
    own.write_text(line + "\n")
    (group / limit).write_text("1000\n")
    (group / used).write_text("900\n")
    assert free_host_bytes(tmp_path / "groups", own) == 100
    (group / "memory.stat").write_text(f"anon 200\nactive_file 50\n{cached} 650\n")
    assert free_host_bytes(tmp_path / "groups", own) == 750
    (group / limit).write_text(f"{2**63 - 4096}\n")  # of version 1, none
    assert free_host_bytes(tmp_path / "groups", own) == 2**40


def test_what_is_free_here_is_of_a_likely_size(tmp_path: Path) -> None:
    assert 2**28 < free_host_bytes(tmp_path / "none", tmp_path / "none") < 2**50
    assert 0 < free_host_bytes() < 2**50


def test_only_samples_that_wait_on_disk_need_a_temporary_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of a container may be writable; this is found before anything is drawn."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    with waiting_folder(checked_waiting(None)) as folder:
        assert folder == ""
    with pytest.raises(DGQError, match=r"^waiting\.folder: .*No usable temporary directory"):
        checked_waiting(WaitingSettings("disk"))
