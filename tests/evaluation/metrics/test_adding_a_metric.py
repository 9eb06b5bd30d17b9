"""The example of docs/reference/evaluation.md is a metric that works, once its file is there."""

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import evaluation.metrics
from evaluation import EvaluationSettings, Protocol, evaluate
from evaluation.command_line import main
from evaluation.features.sample import ImageBatch
from evaluation.images.files import to_images
from evaluation.metrics.bootstrap import FEWEST
from evaluation.metrics.registry import all_metrics, choices
from tests.tiny_pipelines import ROOT

TEXT = (ROOT / "docs" / "reference" / "evaluation.md").read_text()
SECTION = TEXT.partition("### Adding a metric\n")[2].partition("\n## ")[0]
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.S)
(NAME,) = re.findall(r"Saved in `evaluation/metrics/` as `(\w+)\.py`", SECTION)


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's file among the metrics."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / f"{NAME}.py").write_text(EXAMPLE)
    monkeypatch.setattr(evaluation.metrics, "__path__", [*evaluation.metrics.__path__, str(folder)])
    all_metrics.cache_clear()
    yield
    all_metrics.cache_clear()
    sys.modules.pop(f"evaluation.metrics.{NAME}", None)


@pytest.mark.usefixtures("added")
def test_the_examples_values() -> None:
    kind: Any = next(kind for kind in all_metrics() if kind.key == NAME)
    pixels = torch.full((3, 3, 4, 4), 0.5)
    pixels[1, 0] = 1.0
    pixels[2, 0, :, :2] = 1.0
    batch = ImageBatch(to_images(pixels), ["grey", "pink", "half pink"])
    grey, pink, half = kind().score(batch).tolist()
    assert grey == pytest.approx(0, abs=0.01)
    assert 0.1 < pink < half


@pytest.mark.usefixtures("added")
def test_the_example_is_measured_and_shown_everywhere(
    ckpt: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(file=io.StringIO(), width=160)
    protocol = Protocol(
        clip=str(clip_folder), num_images=FEWEST, sqnr_prompts=1, metrics=(NAME, "psnr")
    )
    folders = {"output": tmp_path / "out", "images": tmp_path / "images"}
    settings = EvaluationSettings((ckpt,), protocol, latency_calls=1, batch_size=4, **folders)
    report = evaluate(settings, console)
    full, quantized = (model["metrics"][NAME] for model in report["models"])
    assert full["interval"][0] <= full["value"] <= full["interval"][1]
    assert full["difference"] is None
    assert quantized["difference"][0] <= quantized["value"] - full["value"]
    assert quantized["value"] - full["value"] <= quantized["difference"][1]
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{NAME} ↑" in printed
    assert f"{NAME} ↑" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"{NAME}: Colourfulness" in " ".join(capsys.readouterr().out.split())


def test_the_page_lists_every_metric() -> None:
    section = TEXT.partition("## Metrics\n")[2].partition("\n### ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, flags=re.M)) == choices().keys()
