"""What is recorded is what the pipeline gave its UNet, for each prompt whatever its batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from data.recording import CallRecorder, joined, record_calls
from data.unet_calls import UNetCalls
from dgq.checkpoint import GenerationSettings
from dgq.errors import DGQError
from dgq.pipelines import load_pipeline

PROMPTS = ["a small red circle", "a large blue square", "two green stars"]
STEPS = 3


class LiveCalls:
    """Arguments and results of all UNet calls of a pipeline, as they are."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []
        self.hook = pipeline.unet.register_forward_hook(self.keep, with_kwargs=True)

    def keep(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: tuple[Tensor]
    ) -> None:
        self.calls.append((args, kwargs, out[0].clone()))


def recorded(
    folder: Path, guidance: float, batch_size: int = 3
) -> tuple[DiffusionPipeline, UNetCalls, LiveCalls]:
    pipeline = load_pipeline(str(folder))
    live = LiveCalls(pipeline)
    generation = GenerationSettings(STEPS, guidance)
    calls = record_calls(pipeline, PROMPTS, generation, 0, batch_size)
    live.hook.remove()
    return pipeline, calls, live


@pytest.mark.parametrize("guidance", [0.0, 5.0])
@pytest.mark.parametrize("fixture", ["micro_folder", "sdxl_folder"])
@torch.no_grad()
def test_replayed_calls_equal_the_live_ones(
    fixture: str, guidance: float, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    pipeline, calls, live = recorded(folder, guidance)
    assert calls.n_halves == (2 if guidance > 1 else 1)
    assert len(live.calls) == len(calls.timesteps)
    everyone = torch.arange(len(PROMPTS))
    for index, (args, _, output) in enumerate(live.calls):
        batch = calls.batch(torch.stack([torch.full_like(everyone, index), everyone], 1))
        # The pipeline has all unconditional rows first, a batch the halves of a pair side by side.
        halves = output.unflatten(0, (-1, len(PROMPTS))).transpose(0, 1).flatten(0, 1)
        assert (batch["timestep"] == args[1]).all()
        torch.testing.assert_close(pipeline.unet(**batch)[0], halves, rtol=0, atol=1e-5)


def test_pndm_repeats_a_timestep(micro_folder: Path) -> None:
    _, calls, _ = recorded(micro_folder, 5.0)
    timesteps = calls.timesteps.tolist()
    assert len(timesteps) == STEPS + 1
    assert len(set(timesteps)) == len(calls.distinct_timesteps) == STEPS
    assert timesteps[1] == timesteps[2]
    assert list(calls.distinct_timesteps) == sorted(set(timesteps), reverse=True)


def test_sdxl_has_added_conditioning(sdxl_folder: Path) -> None:
    _, calls, _ = recorded(sdxl_folder, 0.0)
    assert set(calls.conditioning) == {
        "encoder_hidden_states",
        "added_cond_kwargs.text_embeds",
        "added_cond_kwargs.time_ids",
    }
    assert calls.conditioning["added_cond_kwargs.text_embeds"].shape[:2] == (len(PROMPTS), 1)


def test_guidance_has_an_unconditional_half_that_all_prompts_share(micro_folder: Path) -> None:
    _, calls, _ = recorded(micro_folder, 5.0)
    text = calls.conditioning["encoder_hidden_states"]
    assert torch.allclose(text[0, 0], text[1, 0], atol=1e-6)
    assert not torch.allclose(text[0, 1], text[1, 1], atol=1e-2)


def test_a_prompt_does_not_depend_on_the_batch_it_is_recorded_in(micro_folder: Path) -> None:
    _, together, _ = recorded(micro_folder, 5.0, batch_size=3)
    _, apart, _ = recorded(micro_folder, 5.0, batch_size=2)
    assert torch.equal(together.latents[0], apart.latents[0])
    torch.testing.assert_close(together.latents, apart.latents, rtol=0, atol=1e-4)
    assert not torch.allclose(together.latents[0, 0], together.latents[0, 1])


def test_the_hook_is_removed_when_the_pipeline_fails(micro_folder: Path) -> None:
    pipeline = load_pipeline(str(micro_folder))
    with pytest.raises(DGQError, match=r"refuses these settings.*divisible by"):
        record_calls(pipeline, PROMPTS, GenerationSettings(2, 1.0, 13, 13), 0, 3)
    assert not pipeline.unet._forward_pre_hooks


def test_latents_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DGQError, match="not finite"):
        CallRecorder(1)(nn.Identity(), (torch.full((1, 4, 2, 2), torch.nan), torch.tensor(5)), {})


def test_conditioning_that_changes_from_step_to_step_is_refused() -> None:
    recorder, sample = CallRecorder(1), torch.zeros(1, 4, 2, 2)
    recorder(nn.Identity(), (sample, torch.tensor(5)), {"text": torch.zeros(1, 3)})
    with pytest.raises(DGQError, match="changes its conditioning"):
        recorder(nn.Identity(), (sample, torch.tensor(4)), {"text": torch.ones(1, 3)})


def test_halves_with_latents_of_their_own_keep_them() -> None:
    recorder, samples = CallRecorder(2), torch.randn(3, 6, 4, 2, 2)
    text = torch.randn(6, 3)
    for index, sample in enumerate(samples):
        recorder(nn.Identity(), (sample, torch.tensor(index)), {"text": text})
    calls = joined([recorder])
    batch = calls.batch(torch.tensor([[1, 0], [2, 1]]))
    # Rows of a call: three halves of two prompts. Rows of a batch: the halves of a pair in turn.
    assert torch.equal(batch["sample"], torch.cat([samples[1, 0::2], samples[2, 1::2]]))
    assert torch.equal(batch["text"], torch.cat([text[0::2], text[1::2]]))
    assert batch["timestep"].tolist() == [1, 1, 1, 2, 2, 2]


def test_halves_that_only_sometimes_differ_are_refused() -> None:
    recorder, sample = CallRecorder(1), torch.randn(2, 4, 2, 2)
    recorder(nn.Identity(), (sample, torch.tensor(5)), {})
    with pytest.raises(DGQError, match="different latents"):
        recorder(nn.Identity(), (sample[:1].repeat(2, 1, 1, 1), torch.tensor(4)), {})
