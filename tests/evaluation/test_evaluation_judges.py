"""Optional metrics with stand-ins for their packages, and what cannot be judged."""

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dgq.errors import DGQError
from evaluation.extractors import Seen
from evaluation.images import to_images
from evaluation.perceptual import Judges, find_judges
from evaluation.plan import find_devices
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol
from evaluation.quality import compare, judge_alone, judge_contents
from evaluation.store import ImageStore

PROMPTS = ["a dog", "a cat", "a bird"]


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A stand-in for a package."""
    module: Any = ModuleType(name)
    module.__spec__ = SimpleNamespace(name=name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


class FakeLpips(nn.Module):
    """The largest difference of images in [-1, 1], [N, 1, 1, 1] as the package returns it."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        assert net == "alex"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().amax(dim=(1, 2, 3), keepdim=True)


class FakeReward:
    """Likes long prompts for bright images."""

    def score(self, prompt: str, image: Image.Image) -> float:
        return len(prompt) + image.getpixel((0, 0))[0] / 255


def make_store(folder: Path, name: str, shade: float) -> ImageStore:
    store = ImageStore(folder, name, {}, PROMPTS)
    for index, image in enumerate(to_images(torch.full((3, 3, 8, 8), shade))):
        store.save(index, image)
    return store


def seen(n: int) -> Seen:
    return Seen(torch.randn(n, 4), torch.randn(n, 5), None)


def test_lpips_of_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "lpips", LPIPS=FakeLpips)
    judges = find_judges(Protocol(), "cpu")
    assert not judges.notes
    a, b = make_store(tmp_path, "a", 0.2), make_store(tmp_path, "b", 0.6)
    quality = compare(a, b, (seen(3), seen(3)), judges, 2)
    assert quality.ratios["lpips"][""].value() == pytest.approx(0.8, abs=0.01)
    assert "ssim" not in quality.ratios  # its window is larger than these images
    assert quality.values["psnr"] == pytest.approx(-20 * math.log10(0.4), abs=0.1)


def test_image_reward_of_each_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "ImageReward", load=lambda name, device: FakeReward())
    judges = find_judges(Protocol(image_reward=True, lpips=False), "cpu")
    prompts = Prompts(tuple(PROMPTS), "list", "list")
    quality = judge_contents(make_store(tmp_path, "a", 1.0), prompts, judges.image_reward, 2)
    expected = sum(map(len, PROMPTS)) / 3 + 1
    assert quality.ratios["image_reward"][""].value() == pytest.approx(expected)


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nat all")

    install(monkeypatch, "lpips", LPIPS=refuse)
    install(monkeypatch, "ImageReward", load=refuse)
    judges = find_judges(Protocol(), "cpu")
    assert judges == Judges(notes=["LPIPS left out: lpips cannot load its weights: no network"])
    with pytest.raises(DGQError, match="lpips cannot load its weights: no network"):
        find_judges(Protocol(lpips=True), "cpu")
    with pytest.raises(DGQError, match="ImageReward cannot load its weights: no network"):
        find_judges(Protocol(image_reward=True), "cpu")


def test_a_broken_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.extras.find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(DGQError, match="installed but cannot be imported"):
        find_judges(Protocol(lpips=True), "cpu")


def test_packages_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("extras", "perceptual"):
        monkeypatch.setattr(f"evaluation.{module}.is_installed", lambda _: False)
    (note,) = find_judges(Protocol(), "cpu").notes
    assert "LPIPS left out" in note
    assert not find_judges(Protocol(lpips=False), "cpu").notes


def test_more_splits_than_images_are_a_note() -> None:
    quality = judge_alone(seen(3), None, None, 10)
    assert quality.notes == ["Inception score: 3 images cannot be split into 10 parts"]
    assert "inception_score" not in quality.values


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_devices("cpu", 3) == ["cpu"] * 3
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_devices("cuda", 2) == ["cuda:0", "cuda:1"]
    assert find_devices("cuda:1", 1) == ["cuda:1"]
    for name, n in (("cuda", 3), ("cuda:0", 2)):
        with pytest.raises(DGQError, match="there are 2 GPUs"):
            find_devices(name, n)
