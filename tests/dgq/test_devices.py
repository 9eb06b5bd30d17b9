"""Devices other than this machine's, and systems other than Linux, by imitation."""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dgq
from dgq import devices
from dgq.command_line import stopping
from dgq.inference.products import products_of
from dgq.math.range_search import weight_range
from dgq.ops import cpu, gpu
from dgq.storage import files
from tests.quantized_models import Calibrated

Models = Callable[[str], Calibrated]


class NoFloat64(TorchDispatchMode):
    """A device without float64, as Apple's and some of Intel's GPUs are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and refuse its result if it is in float64."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{func}: this device has no float64")
        return result


@pytest.mark.parametrize("name", ["exponents", "kmeans", "per-tensor", "w4a16"])
def test_floating_point_runs_on_a_device_without_float64(name: str, calibrated_as: Models) -> None:
    model = calibrated_as(name)
    unet = dgq.load_quantized_unet(model.folder, "float")
    with torch.no_grad(), NoFloat64():
        output = unet(**model.call)[0]
    assert torch.equal(output, model.output)


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_are_found_on_a_device_without_float64(symmetric: bool) -> None:
    weight = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    weight[3] *= 1e-20
    with NoFloat64():
        low, high = weight_range(weight, 4, "mse", symmetric)
        scaled = weight_range(weight * 2.0**40, 4, "mse", symmetric)
    assert bool((high > 0).all())
    torch.testing.assert_close((low * 2.0**40, high * 2.0**40), scaled)


def test_a_device_without_kernels_is_named(calibrated_as: Models) -> None:
    unet = dgq.load_quantized_unet(calibrated_as("exponents").folder).to("meta")
    products, obstacle = products_of(unet)
    assert (products.device, products.features()) == ("meta", ())
    assert obstacle == "no integer kernels for meta yet"
    assert products.best_dtype() == torch.float32
    assert products.attention(torch.bfloat16)[0] == "torch"
    assert "avx2" not in str(unet.execution)


@pytest.mark.skipif(not cpu.products_are_exact(), reason="this CPU multiplies no bytes")
def test_images_lie_as_in_a_stock_unet_where_no_kernel_reads_them(calibrated_as: Models) -> None:
    def is_contiguous() -> bool:
        weight = unet.conv_in.weight
        return weight.is_contiguous() and not weight.is_contiguous(memory_format=by_pixels)

    by_pixels = torch.channels_last
    unet = dgq.load_quantized_unet(calibrated_as("exponents").folder, "integer")
    assert not is_contiguous()
    dgq.prepare_(unet, "float")
    assert is_contiguous()
    dgq.prepare_(unet, "integer")
    assert unet.to("meta").conv_in.weight.is_contiguous()


def test_gpus_of_amd_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    why_not = gpu.why_not.__wrapped__
    assert why_not(torch.device("cuda")) == "no integer kernels for AMD GPUs yet"


def test_an_accelerator_of_any_kind_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    devices.wait("cpu")
    assert waited == []
    devices.wait("mps")
    assert waited == [torch.device("mps")]


def test_the_peak_of_memory_grows_and_is_forgotten(tmp_path: Path) -> None:
    devices.forget_peak("cpu")
    before = devices.peak_bytes("cpu")
    block = torch.ones(2**28, dtype=torch.uint8)
    assert devices.peak_bytes("cpu") > before + 2**27
    del block


def on_windows(module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A module of ours, run anew without what Windows lacks."""
    assert module.__file__
    with monkeypatch.context() as patch:
        for name in ("SIGHUP", "SIGUSR1", "SIGPIPE", "SIGKILL"):
            patch.delattr(signal, name)
        patch.setitem(sys.modules, "resource", None)
        patch.setattr(sys, "platform", "win32")
        return runpy.run_path(module.__file__)


def test_windows_has_fewer_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    found = on_windows(stopping, monkeypatch)["SIGNALS"]
    assert found == (signal.SIGINT, signal.SIGTERM)
    assert stopping.SIGNALS[2:] == (signal.SIGHUP, signal.SIGUSR1)


def test_windows_tells_the_peak_of_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = on_windows(devices, monkeypatch)
    usage = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=5 * 2**30))
    monkeypatch.setattr(psutil, "Process", lambda: usage)
    peak = found["peak_bytes"]
    peak.__globals__["STATUS"] = tmp_path / "none"
    assert peak("cpu") == 5 * 2**30


def test_files_are_written_where_folders_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def opened(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        # Windows opens no folders, and flushes only files that may be written; rmtree names more.
        if flags == os.O_RDONLY and not named:
            raise PermissionError(13, "Permission denied", str(path))
        return stock(path, flags, *rest, **named)

    stock = os.open
    monkeypatch.setattr(files, "FLUSHES_FOLDERS", False)
    monkeypatch.setattr(files.os, "open", opened)
    with files.written_beside(tmp_path / "a.txt") as beside:
        beside.write_text("content")
    with files.files_written_into(tmp_path / "folder") as folder:
        (folder / "b.json").write_text("{}")
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["a.txt", "b.json", "folder"]


def test_processes_of_this_machine_are_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows ``os.kill``, with which others can be looked for, ends them."""
    monkeypatch.setattr(psutil, "pid_exists", lambda number: number == os.getpid())
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process was sent a signal"))
    mine = files.partial_name("model")
    ended = mine.replace(f"-{os.getpid()}-", "-1-")
    assert (files.is_abandoned(mine), files.is_abandoned(ended)) == (False, True)
