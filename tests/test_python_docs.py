"""The examples of docs/how-to/python.md run, one after the other, on a tiny pipeline."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import dgq
from tests.tiny_pipelines import ROOT

PAGE = (ROOT / "docs/how-to/python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FAST = {
    '"models/stable-diffusion-v1-4"': "PIPELINE",
    '"w4a8"': "RECIPE",
    "num_inference_steps=25": "num_inference_steps=2",
    "n_samples=416": "n_samples=6, num_inference_steps=2",
    "iterations=100, polish_iterations=30": "iterations=1, polish_iterations=1",
}


def test_the_examples_run_in_their_order(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(f"{n} red circles" for n in range(7)))
    learning = dgq.LearningSettings(iterations=1, polish_iterations=1)
    recipe = dgq.Ours(learning=learning, range_method="minmax", mixed=False)
    names: dict[str, Any] = {"PIPELINE": str(micro_folder), "RECIPE": recipe}
    text = "\n".join(BLOCKS)
    for slow, fast in FAST.items():
        assert slow in text
        text = text.replace(slow, fast)
    exec(compile(text, "docs/how-to/python.md", "exec"), names)
    assert names["image"].size == (16, 16)
    assert names["a5"].unet is not names["result"].unet
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "sd14-w4a5",
        "sd14-w4a8",
    ]


def test_every_option_of_calibrate_is_explained() -> None:
    options = list(inspect.signature(dgq.calibrate).parameters)[3:]
    assert "progress" in options
    assert [name for name in options if f"`{name}" not in PAGE] == []
