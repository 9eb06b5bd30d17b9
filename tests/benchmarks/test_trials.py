"""The trials: one change each, trained, measured and tabulated; what is finished stays."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from benchmarks.likeness.figures import Figures
from benchmarks.trials import variants
from benchmarks.trials.command import main, make_parser
from benchmarks.trials.page import likeness_row, summary
from benchmarks.trials.variants import BASE, VARIANTS, shortened
from scenes.training import diffusion
from scenes.training.settings import (
    SMALL,
    Autoencoder,
    Clip,
    Fit,
    Latents,
    sd_unet,
)

TINY_FIT = Fit(steps=4, batch_size=4, learning_rate=1e-3, warmup_steps=1)
TINY = dataclasses.replace(
    SMALL,
    clip=Clip(TINY_FIT, n_captions=40),
    autoencoder=Autoencoder(
        TINY_FIT, block_out_channels=(8, 8, 8), norm_num_groups=4, pca_steps=1, n_pictures=40
    ),
    latents=Latents(n_captions=20, renders=1),
    diffusion=dataclasses.replace(
        SMALL.diffusion, fit=TINY_FIT, unet=sd_unet((16, 16, 16)) | {"norm_num_groups": 8}
    ),
)
EFFORT = ("--images", "2", "--prompts", "1", "--held-out", "1", "--steps", "2", "--processes", "1")
RUN = ("base", "wide-norm-groups", "norms-decay", "noise", "deep-text", "large-pictures")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "BASE", TINY)


def run(root: Path, *arguments: str) -> int:
    return main([*EFFORT, "--outputs", str(root / "work"), "--docs", str(root), *arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "BASE", TINY)
        assert run(folder, "--trials", *RUN) == 0
    return folder


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "base"])
def test_every_trial_changes_something_and_can_be_built(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "BASE", BASE)
    before = shortened(600)
    after = VARIANTS[name].change(before)
    parts = [f.name for f in dataclasses.fields(before)]
    changed = [part for part in parts if getattr(before, part) != getattr(after, part)]
    assert changed
    if not VARIANTS[name].anew:
        assert changed == ["diffusion"]
    with torch.device("meta"):
        unet = diffusion.build(after.diffusion.unet, 8, after.clip.width)
    assert isinstance(unet, UNet2DConditionModel)


@pytest.mark.slow
def test_pages_tell_what_was_run(root: Path) -> None:
    text = (root / "trials.md").read_text()
    for name in RUN:
        assert text.count(f"| `{name}` |") == 2
    assert "Not run: other-seed, double-rate," in text
    content = json.loads((root / "trials.json").read_text())["trials"]
    assert list(content) == [name for name in VARIANTS if name in RUN]
    assert "`python benchmarks/trials --steps 2` makes this page" in text


def measured(root: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "work" / "2" / name / "measured.json").read_text())
    return content


@pytest.mark.slow
def test_figures_are_read_as_they_were_written(root: Path) -> None:
    written = measured(root, "base")["likeness"]
    figures = Figures.from_json(written)
    assert json.loads(json.dumps(figures.as_json())) == written
    assert figures.scores["self-attention"].below[-8] >= 0


@pytest.mark.slow
def test_a_summary_says_what_the_figures_say(root: Path) -> None:
    figures = measured(root, "noise")
    found = summary(figures)
    layers = figures["likeness"]["layers"]
    ratios = [x["channel_outliers"] for x in layers if x["name"].endswith(".ff.net.2")]
    assert found["outliers"]["geglu"] == {
        "median": float(np.median(ratios)),
        "largest": max(ratios),
    }
    assert found["change_over_steps"] == pytest.approx(np.median([x["change"] for x in layers]))
    masses = [x["mass"] * 77 for x in figures["likeness"]["blocks"]]
    assert found["start_token_times_uniform"] == pytest.approx(np.mean(masses))
    assert found["oracle"]["mean"] == figures["drawing"]["mean"]["share"]


@pytest.mark.slow
def test_trials_differ_in_their_change_alone(root: Path) -> None:
    work = root / "work" / "2"
    shared = root / "work" / "shared" / "conditions"
    assert (work / "noise" / "conditions").resolve() == shared.resolve()
    for stage in ("clip", "conditions"):
        assert not (work / "deep-text" / stage).is_symlink()
    assert (work / "deep-text" / "latents").is_symlink()
    assert (work / "large-pictures" / "clip").is_symlink()
    settings = json.loads((work / "noise" / "diffusion" / "settings.json").read_text())
    assert settings["prediction_type"] == "epsilon"


@pytest.mark.slow
def test_the_gain_of_groups_is_their_difference(root: Path) -> None:
    trial = json.loads((root / "trials.json").read_text())["trials"]["base"]
    *_, one, many, gain = likeness_row("base", trial)
    assert float(many) - float(one) == pytest.approx(float(gain), abs=0.11)
    assert float(one) == pytest.approx(measured(root, "base")["sqnr_db"]["1"], abs=0.06)


@pytest.mark.slow
def test_what_is_finished_stays(root: Path) -> None:
    figures = root / "work" / "2" / "base" / "measured.json"
    before = figures.stat().st_mtime_ns, (root / "trials.md").read_text()
    assert run(root, "--trials", *RUN) == 0
    assert (figures.stat().st_mtime_ns, (root / "trials.md").read_text()) == before


@pytest.mark.slow
def test_figures_of_another_effort_are_not_mixed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (root / "trials.md").read_text()
    assert run(root, "--trials", "other-seed", "--images", "3") == 2
    assert "measured.json is of another effort" in capsys.readouterr().err
    assert not (root / "work" / "2" / "other-seed").exists()
    assert (root / "trials.md").read_text() == before


@pytest.mark.slow
def test_figures_of_other_settings_are_not_mixed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = variants.Variant("another", variants.fit(learning_rate=0.5))
    monkeypatch.setitem(variants.VARIANTS, "base", changed)
    assert run(root, "--trials", "base") == 2
    assert "measured.json is of another settings" in capsys.readouterr().err


def test_bad_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--steps", "0") == 2
    assert "--steps must be a whole number of at least 1" in capsys.readouterr().err
    assert run(tmp_path, "--processes", "3") == 2
    assert "--processes 3 cannot share batches" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_option_is_explained() -> None:
    assert all(action.help for action in make_parser()._actions)
