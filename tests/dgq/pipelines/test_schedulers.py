"""Samplers that take the place of a pipeline's own."""

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from dgq.pipelines.schedulers import scheduler_like


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
