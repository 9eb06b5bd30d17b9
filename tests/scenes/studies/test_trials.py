"""The trials: one change each, trained and measured; what is finished stays."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from scenes.studies import trial_settings
from scenes.studies.likeness_figures import TITLES
from scenes.studies.trial_settings import BASE, TRIALS, Trial, fit, shortened
from scenes.studies.trials import MEASURED, main, make_parser
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
    monkeypatch.setattr(trial_settings, "BASE", TINY)


def run(root: Path, *arguments: str) -> int:
    return main([*EFFORT, "--outputs", str(root), *arguments])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_settings, "BASE", TINY)
        assert run(folder, "--trials", *RUN) == 0
    return folder


@pytest.mark.parametrize("name", [name for name in TRIALS if name != "base"])
def test_every_trial_changes_something_and_can_be_built(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_settings, "BASE", BASE)
    before = shortened(600)
    after = TRIALS[name].change(before)
    parts = [f.name for f in dataclasses.fields(before)]
    changed = [part for part in parts if getattr(before, part) != getattr(after, part)]
    assert changed
    if not TRIALS[name].anew:
        assert changed == ["diffusion"]
    with torch.device("meta"):
        unet = diffusion.build(after.diffusion.unet, 8, after.clip.width)
    assert isinstance(unet, UNet2DConditionModel)


def measured(root: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "2" / name / MEASURED).read_text())
    return content


@pytest.mark.slow
def test_the_table_says_what_was_measured(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (root / "2" / name / MEASURED).stat().st_mtime_ns for name in RUN}
    assert run(root, "--trials", *RUN) == 0
    # Nothing is measured again: what is finished stays.
    assert before == {name: (root / "2" / name / MEASURED).stat().st_mtime_ns for name in RUN}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| `{name}`" for name in RUN]
    assert {line.count(" | ") for line in lines} == {1 + len(TITLES) + 2 + 2 - 1}
    for name, line in zip(RUN, lines[2:], strict=True):
        figures, cells = measured(root, name), line.strip("| ").split(" | ")
        assert float(cells[-2]) == pytest.approx(figures["drawing"]["mean"]["share"], abs=6e-4)
        one, many = map(float, cells[-4:-2])
        assert [one, many] == pytest.approx(figures["sqnr_db"], abs=0.06)
        assert float(cells[1]) == pytest.approx(figures["likeness"]["start_token"], rel=0.01)


@pytest.mark.slow
def test_trials_differ_in_their_change_alone(root: Path) -> None:
    work = root / "2"
    shared = root / "shared" / "conditions"
    assert (work / "noise" / "conditions").resolve() == shared.resolve()
    for stage in ("clip", "conditions"):
        assert not (work / "deep-text" / stage).is_symlink()
    assert (work / "deep-text" / "latents").is_symlink()
    assert (work / "large-pictures" / "clip").is_symlink()
    settings = json.loads((work / "noise" / "diffusion" / "settings.json").read_text())
    assert settings["prediction_type"] == "epsilon"


@pytest.mark.slow
def test_figures_of_another_effort_are_not_mixed(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "--trials", "base", "--images", "3") == 2
    assert "is of other settings or another effort" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_other_settings_are_not_mixed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(trial_settings.TRIALS, "base", Trial("another", fit(learning_rate=0.5)))
    assert run(root, "--trials", "base") == 2
    assert "is of other settings or another effort" in capsys.readouterr().err


def test_bad_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--steps", "0") == 2
    assert "--steps must be a whole number of at least 1" in capsys.readouterr().err
    assert run(tmp_path, "--processes", "3") == 2
    assert "--processes 3 cannot share batches" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_option_is_explained() -> None:
    assert all(action.help for action in make_parser()._actions)
