"""Other samplers, steps and sizes: what is recorded, what is measured, and what is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from benchmarks import settings as benchmark
from benchmarks.settings import Setting, main, measure, record, settings_of
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.settings import (
    ActivationSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from dgq.storage.checkpoint import GenerationSettings, Manifest, save_quantized
from tests.tiny_pipelines import calibrate_

GENERATION = GenerationSettings(3, 2.0)


@pytest.fixture(scope="module")
def run(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was calibrated at three steps of the pipeline's own sampler."""
    folder = tmp_path_factory.mktemp("runs") / "w4a8"
    quantization = QuantizationSettings(
        WeightSettings(4, "minmax"), ActivationSettings(8), ScoreSettings(16)
    )
    pipeline = load_pipeline(str(micro_folder))
    timesteps = tuple(
        dict.fromkeys(
            float(call["timestep"]) for call, _ in record(pipeline, Setting(steps=3), GENERATION, 1)
        )
    )
    unet = load_unet(str(micro_folder))
    calibrate_(unet, quantization, timesteps)
    manifest = Manifest(
        str(micro_folder), dict(unet.config), quantization, GENERATION, timesteps, (8, 8)
    )
    save_quantized(unet, folder / "quantized", manifest)
    return folder


@torch.no_grad()
def test_a_setting_is_drawn_in_full_precision_and_leaves_the_pipeline_as_it_was(
    micro_folder: Path,
) -> None:
    pipeline = load_pipeline(str(micro_folder))
    own = pipeline.scheduler
    setting = Setting("DDIM", 4, 32, 48)
    calls = record(pipeline, setting, setting.generation(GENERATION), 2)
    assert pipeline.scheduler is own
    assert not pipeline.unet._forward_hooks
    assert len(calls) == 4
    scheduler = DDIMScheduler.from_config(own.config)
    scheduler.set_timesteps(4)
    assert [float(call["timestep"]) for call, _ in calls] == scheduler.timesteps.tolist()
    scale = pipeline.vae_scale_factor
    for call, expected in calls:
        assert call["sample"].shape == (4, 4, 32 // scale, 48 // scale), "two captions, two halves"
        assert torch.equal(pipeline.unet(**call)[0], expected)


def test_a_scheduler_that_does_not_exist_is_said(micro_folder: Path) -> None:
    with pytest.raises(DGQError, match="no MagicScheduler"):
        record(load_pipeline(str(micro_folder)), Setting("Magic", 3), GENERATION, 1)


def test_settings_begin_with_the_calibrated_one_and_differ() -> None:
    for steps in (4, 25):
        settings = settings_of(GenerationSettings(steps, 0.0))
        assert settings[0] == Setting(steps=steps)
        assert len({str(setting) for setting in settings}) == len(settings)


def test_steps_that_were_not_calibrated_give_one_warning(run: Path, micro_folder: Path) -> None:
    pipeline = load_pipeline(str(micro_folder))
    known, other = (
        measure(str(run), record(pipeline, setting, setting.generation(GENERATION), 1))
        for setting in (Setting(steps=3), Setting(steps=7))
    )
    assert known["warnings"] == 0
    assert other["warnings"] == 1
    assert known["worst_call_db"] <= known["sqnr_db"]


def test_the_page_is_written_and_nothing_is_measured_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "settings_of", lambda _: [Setting(steps=3), Setting("DDIM", 2)])
    arguments = ["--ckpt", str(run), "--captions", "1", "--docs", str(tmp_path)]
    assert main(arguments) == 0
    page = (tmp_path / "settings.md").read_text()
    assert "| own sampler, 3 steps | " in page
    assert "(+0.0) | 0 |" in page
    assert "| DDIM, 2 steps | " in page

    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(benchmark, "record", never)
    assert main(arguments) == 0
    assert (tmp_path / "settings.md").read_text() == page


def test_what_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", str(tmp_path / "none"), "--docs", str(tmp_path)]) == 2
    assert "it does not exist" in capsys.readouterr().err
