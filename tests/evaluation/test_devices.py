"""Which devices processes draw on."""

import pytest
import torch

from dgq.errors import DGQError
from evaluation.devices import default_device, find_devices


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_devices("cpu", 3) == ["cpu"] * 3
    tensor = torch.empty(0)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: tensor)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert find_devices("cuda:1", 1) == ["cuda:1"]
    for name, n in (("cuda", 3), ("cuda:0", 2)):
        with pytest.raises(DGQError, match="there are 2 GPUs"):
            find_devices(name, n)


def test_the_default_is_the_accelerator_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.device | None] = [torch.device("mps"), None]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found.pop())
    assert [default_device(), default_device()] == ["cpu", "mps"]


@pytest.mark.parametrize("name", ["cud", "meta", "cuda:99"])
def test_what_holds_no_numbers_here_is_refused(name: str) -> None:
    with pytest.raises(DGQError, match=f"--device {name} cannot be used"):
        find_devices(name, 1)
