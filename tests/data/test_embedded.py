"""The one plug-in point of benchmarks: who imports embedded models, and what a new one needs."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import scenes
from data import embedded
from data.benchmark import Benchmark, Split
from data.prompts import choose_prompts
from dgq.pipelines.embedded import EMBEDDED, find_embedded
from dgq.storage.manifest import GenerationSettings
from evaluation.features.features import Features
from evaluation.features.references import render_references
from evaluation.metrics.oracle import ratios_of
from evaluation.prompts import load_prompts
from tests.tiny_pipelines import ROOT

COLOURS = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}


@dataclass
class Found:
    """Whether images have the colour of their prompts."""

    hits: dict[str, Tensor]
    asked: dict[str, Tensor]


def sample(n: int, seed: int, split: Split) -> list[str]:
    return [list(COLOURS)[(i + seed) % 2] for i in range(n)]


def paint(prompts: Sequence[str], size: int, seed: int) -> Tensor:
    colours = torch.tensor([COLOURS[prompt] for prompt in prompts])
    return colours[:, :, None, None].expand(-1, -1, size, size)


def read(images: Tensor, prompts: Sequence[str]) -> Found:
    right = (images - paint(prompts, images.shape[-1], 0)).abs().amax((1, 2, 3)) < 0.5
    return Found({"colour": right.int()}, {"colour": torch.ones_like(right).int()})


PAINT = Benchmark(
    name="paint",
    generation={"paint": GenerationSettings(3, 1.0)},
    clip=scenes.CLIP_DIR,
    sample_prompts=sample,
    is_prompt=lambda text: text in COLOURS,
    render=paint,
    class_prompts=lambda: list(COLOURS),
    attributes=("colour",),
    score=read,
)
"""A benchmark of one file."""


def test_the_embedded_models_are_imported_in_one_place() -> None:
    rooms = [ROOT / name for name in ("dgq", "data", "lit", "evaluation")]
    files = [file for room in rooms for file in room.rglob("*.py")]
    files += [ROOT / f"{script}.py" for script in ("train", "evaluate", "generate", "explain")]
    assert [file.relative_to(ROOT) for file in files if imports_scenes(file)] == [
        Path("data/embedded.py")
    ]


def imports_scenes(file: Path) -> bool:
    """Whether a file imports the package of the embedded models anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module))
    return any(name.partition(".")[0] == "scenes" for name in names)


def test_pipelines_have_a_folder_and_a_way_to_be_sampled() -> None:
    assert EMBEDDED == {
        "scenes": scenes.PIPELINE_DIR,
        "scenes-xl": scenes.XL_DIR,
        "scenes-few-step": scenes.FEW_STEP_DIR,
    }
    assert list(embedded.SCENES.generation) == list(EMBEDDED)
    assert embedded.default_generation("scenes-few-step").num_inference_steps == scenes.FEW_STEPS
    assert embedded.default_generation("owner/name") == GenerationSettings()


def test_a_folder_without_models_has_no_names(tmp_path: Path) -> None:
    assert find_embedded(tmp_path) == {}
    (tmp_path / "paint").mkdir()
    (tmp_path / "paint" / "pipelines.json").write_text('{"paint": "pipeline"}')
    assert find_embedded(tmp_path) == {"paint": tmp_path / "paint" / "pipeline"}


def test_another_benchmark_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "BENCHMARKS", (embedded.SCENES, PAINT))
    assert embedded.benchmark_of_pipeline("paint") is PAINT
    assert embedded.default_generation("paint") == GenerationSettings(3, 1.0)
    assert choose_prompts(None, 2, 0, benchmark=PAINT) == ["red", "blue"]

    prompts = load_prompts(None, 4, 1, PAINT)
    assert prompts.captions == ("blue", "red", "blue", "red")
    assert "paint" in prompts.source
    assert prompts.benchmark is PAINT
    pixels = paint(prompts.captions, 8, 0)
    right = ratios_of([PAINT.score(pixels, prompts.captions)])
    assert {name: ratio.value() for name, ratio in right.items()} == {"all": 1.0, "colour": 1.0}
    half = ratios_of([PAINT.score(pixels, ["red"] * 4)])
    assert half["colour"].value() == 0.5


def test_references_are_its_own_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "BENCHMARKS", (PAINT,))
    drawn: list[Image.Image] = []

    class Watcher:
        def extract(self, batches: Sequence[list[Image.Image]]) -> Features:
            drawn.extend(image for batch in batches for image in batch)
            return Features(torch.rand(len(drawn), 3))

    render_references(load_prompts(None, 4, 0, PAINT), 0, 8, Watcher())  # type: ignore[arg-type]
    assert len(drawn) == 1024
    assert {image.getpixel((0, 0)) for image in drawn} == {(255, 0, 0), (0, 0, 255)}
