"""The tables in the documentation are those of the committed figures."""

import json
import math
from typing import Any

import pytest

from benchmarks.ablation.page import page, readme_section, with_section
from benchmarks.settings import Setting, cells, settings_of
from benchmarks.settings import page as settings_page
from dgq.storage.checkpoint import GenerationSettings
from tests.pages import README, ROOT

REFERENCE = ROOT / "docs/reference"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """The figures of the ablation."""
    content: dict[str, Any] = json.loads((REFERENCE / "results.json").read_text())
    return content


def test_the_pages_of_results_are_made_from_their_figures(results: dict[str, Any]) -> None:
    made = page(results["cells"], results["images"], results["command"])
    assert (REFERENCE / "results.md").read_text() == made
    section = readme_section(results["cells"], results["images"])
    assert with_section(README.read_text(), section) == README.read_text()


def test_pooled_figures_follow_from_those_of_each_prompt(results: dict[str, Any]) -> None:
    for cell in results["cells"]:
        signal, noise = sum(cell["signal_by_prompt"]), sum(cell["noise_by_prompt"])
        assert cell["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)
        low, high = cell["interval_db"]
        assert low < cell["sqnr_db"] < high
        assert len(cell["signal_by_prompt"]) == cell["n_prompts"]


def test_the_page_of_settings_is_made_from_its_figures() -> None:
    figures = json.loads((REFERENCE / "settings.json").read_text())
    text = (REFERENCE / "settings.md").read_text()
    (model,) = {key.split()[0] for key in figures}
    settings: list[Setting] = settings_of(GenerationSettings(25, 2.0))
    rows = [{"setting": s, "models": {"w4a8": figures[f"{model} 8 {s}"]}} for s in settings]
    assert len(figures) == len(rows)
    lines = [cells(row, rows[0]["models"]) for row in rows]
    command = text.split("`")[1]
    assert text == settings_page(["w4a8"], lines, command, 8)


def test_the_table_of_learning_is_made_from_its_figures() -> None:
    figures = json.loads((ROOT / "docs/experiments/calibration.json").read_text())
    text = (REFERENCE / "speed.md").read_text()
    labels = {
        "nearest": "nearest",
        "published, 1000": "published, 1000 iterations",
        "ours": "ours, 260 iterations",
    }
    for name, label in labels.items():
        alone = [target[name] for target in figures["single_targets"].values()]
        error = sum(target["error"] for target in alone) / len(alone)
        whole = figures["whole"][name]
        seconds = f"{whole['cpu_s']:.0f}"
        row = f"| {label} | {whole['sqnr_db']['weights']:.1f} dB | {error:.4f} | {seconds}"
        assert row in text
