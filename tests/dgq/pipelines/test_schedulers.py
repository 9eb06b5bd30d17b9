"""Samplers that take the place of a pipeline's own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline
from dgq.pipelines.schedulers import check_scheduler, scheduler_like


def test_latents_are_clipped_only_if_the_pipeline_says_so() -> None:
    own = PNDMScheduler(beta_start=0.001, skip_prk_steps=True)
    assert DDIMScheduler.from_config(own.config).config.clip_sample, "diffusers' default changed"
    found = scheduler_like(DDIMScheduler, own)
    assert (found.config.clip_sample, found.config.beta_start) == (False, 0.001)
    clipping = DDIMScheduler(clip_sample=True)
    assert scheduler_like(DDIMScheduler, clipping).config.clip_sample


def test_a_sampler_that_never_clips_is_as_by_diffusers(caplog: pytest.LogCaptureFixture) -> None:
    own = PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1)
    found = scheduler_like(EulerDiscreteScheduler, own)
    expected = EulerDiscreteScheduler.from_config(own.config)
    assert "clip_sample" not in expected.config
    left = {k: v for k, v in found.config.items() if k != "clip_sample"}
    assert left == dict(expected.config)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "value"),
    [("prediction_type", "epsilgn"), ("prediction_type", {}), ("trained_betas", [1, 2])],
)
def test_a_sampler_that_would_fail_in_its_first_step_is_refused(
    name: str, value: Any, micro_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "pipeline"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(DGQError, match=r"sampler of .*cannot be used.*scheduler_config\.json"):
        load_pipeline(str(folder))


def test_every_sampler_that_goes_with_a_pipeline_passes() -> None:
    own = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    checked = 0
    for kind in own.compatibles:
        try:
            found = scheduler_like(kind, own)
        except ImportError:
            continue
        before = dict(vars(found))
        check_scheduler(found, Path())
        assert vars(found).keys() == before.keys()
        checked += 1
    assert checked > 5
