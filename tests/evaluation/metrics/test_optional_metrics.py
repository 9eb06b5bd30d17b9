"""Metrics of optional packages, with stand-ins for these."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dgq.errors import DGQError
from evaluation.features.sample import Sample
from evaluation.images.files import to_images
from evaluation.images.store import ImageStore
from evaluation.metrics.measure import Values, measure_sample
from evaluation.metrics.metric import Metric
from evaluation.metrics.registry import choose_metrics
from evaluation.prompts import Prompts
from evaluation.protocol import Protocol

PROMPTS = ["a dog", "a cat", "a bird"]
PROMPTS_OF_A_LIST = Prompts(tuple(PROMPTS), "list", "list")


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


def measured(folder: Path, metrics: list[Metric], shades: tuple[float, float]) -> Values:
    """Values of grey images against grey ones."""
    expected, actual = (make_store(folder, str(shade), shade) for shade in shades)
    return measure_sample(Sample(actual, full_precision=Sample(expected), batch_size=2), metrics)


def test_lpips_of_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "lpips", LPIPS=FakeLpips)
    metrics, notes = choose_metrics(Protocol(), PROMPTS_OF_A_LIST, "cpu")
    assert not notes
    chosen = [metric for metric in metrics if metric.key in ("lpips", "ssim")]
    values = measured(tmp_path, chosen, (0.2, 0.6))
    assert value_of(values, "lpips") == pytest.approx(0.8, abs=0.01)
    assert values.by_key.keys() == {"lpips"}
    assert values.notes == ["SSIM: images are smaller than its window of 11 pixels"]


def test_image_reward_of_each_prompt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "ImageReward", load=lambda name, device: FakeReward())
    protocol = Protocol(image_reward=True, lpips=False, metrics=())
    metrics, _ = choose_metrics(protocol, PROMPTS_OF_A_LIST, "cpu")
    assert [metric.key for metric in metrics] == ["image_reward"]
    values = measured(tmp_path, metrics, (0.0, 1.0))
    assert value_of(values, "image_reward") == pytest.approx(sum(map(len, PROMPTS)) / 3 + 1)


def value_of(values: Values, key: str) -> float:
    """The mean of a metric that is one."""
    ratios = values.by_key[key]
    assert not isinstance(ratios, float)
    return ratios[""].value()


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nat all")

    install(monkeypatch, "lpips", LPIPS=refuse)
    install(monkeypatch, "ImageReward", load=refuse)
    metrics, notes = choose_metrics(Protocol(), PROMPTS_OF_A_LIST, "cpu")
    assert "lpips" not in {metric.key for metric in metrics}
    assert notes == ["LPIPS left out: lpips cannot load its weights: no network"]
    for asked in (Protocol(lpips=True), Protocol(metrics=("lpips",))):
        with pytest.raises(DGQError, match="lpips cannot load its weights: no network"):
            choose_metrics(asked, PROMPTS_OF_A_LIST, "cpu")
    with pytest.raises(DGQError, match="ImageReward cannot load its weights: no network"):
        choose_metrics(Protocol(image_reward=True), PROMPTS_OF_A_LIST, "cpu")


def test_a_broken_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.extras.find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(DGQError, match="installed but cannot be imported"):
        choose_metrics(Protocol(lpips=True), PROMPTS_OF_A_LIST, "cpu")


def test_packages_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.extras.find_spec", lambda _: None)
    (note,) = choose_metrics(Protocol(), PROMPTS_OF_A_LIST, "cpu")[1]
    assert note == "LPIPS left out: the package lpips is not installed (extra lpips)"
    assert not choose_metrics(Protocol(lpips=False), PROMPTS_OF_A_LIST, "cpu")[1]
    with pytest.raises(DGQError, match=r"pip install 'dgq\[image_reward\]'"):
        choose_metrics(Protocol(metrics=("image_reward",)), PROMPTS_OF_A_LIST, "cpu")
