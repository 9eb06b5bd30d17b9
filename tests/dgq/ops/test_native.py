"""Our CPU kernels: compiled at the first use, done without, and short of memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgq.ops import compiling, native
from tests.left_to_torch import attending, compiled

QUANTIZED = """
import torch
from dgq import ops
from dgq.ops import reference
from tests.left_to_torch import is_left_to_torch

x = torch.linspace(-9, 9, 96).view(2, 3, 16)
table, step = torch.full((16,), 2.0), torch.tensor([0])
zero_point = torch.full((1, 16), 99, dtype=torch.int16)
call = (x, torch.ones(1) / 20, table, zero_point, table / 2, step, 255, [])
assert torch.equal(ops.quantize(*call), reference.quantize(*call))
print(is_left_to_torch(ops.quantize, *call))
"""
"""The first call of an operator, and who computes the second."""

THREADS = """
import threading
import torch
from dgq import ops

x, found = torch.randn(4, 50, 40), []
threads = [threading.Thread(target=lambda: found.append(ops.channel_ranges(x))) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), all(torch.equal(low, x.amin(1)) for low, high in found))
"""

WITHOUT_MEMORY = """
import resource
import torch
from dgq import ops
from dgq.ops import native

assert native.kernels() is not None
key = torch.zeros(1, 2**21, 64, dtype=torch.bfloat16)
with open("/proc/self/statm") as sizes:
    used = int(sizes.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, -1))
try:
    ops.attention(key[:, :5], key, key, 1, 1.0)
except Exception as error:
    print(type(error).__name__)
"""


def printed(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a program prints in a process of its own."""
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, **environment}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@compiled
@pytest.mark.parametrize("overload", ["default", "marking"])
def test_the_first_call_compiles_the_kernels(overload: str) -> None:
    program = QUANTIZED.replace("ops.quantize(*call)", f"ops.quantize.{overload}(*call)")
    assert printed(program).stdout.split() == ["False"]


@compiled
def test_threads_may_be_first_together(tmp_path: Path) -> None:
    run = printed(THREADS, HOME=str(tmp_path))
    assert run.stdout.split() == ["8", "True"]
    assert "registered" not in run.stderr
    assert len(list((tmp_path / ".cache/dgq").iterdir())) == 1


def test_without_a_compiler_torch_computes(tmp_path: Path) -> None:
    run = printed(QUANTIZED, PATH=str(tmp_path))
    assert run.stdout.split() == ["True"]
    assert run.stderr.count("no C++ compiler") == 1


@attending
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_attention_without_memory_says_so() -> None:
    assert printed(WITHOUT_MEMORY).stdout.split() == ["MemoryError"]


@pytest.fixture
def unloaded() -> Iterator[None]:
    """As if the kernels had not been loaded."""
    native._loaded.cache_clear()
    yield
    native._loaded.cache_clear()


@pytest.mark.usefixtures("unloaded")
def test_no_compiler_on_the_path_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    assert native.kernels() is native.kernels() is None
    assert [r.message for r in caplog.records] == [
        "no C++ compiler (g++, clang++, c++): slower kernels of torch are used"
    ]


@pytest.mark.usefixtures("unloaded")
def test_a_compiler_that_fails_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "FLAGS", ("--no-such-flag",))
    assert native.kernels() is None
    assert "cannot be compiled" in caplog.text
