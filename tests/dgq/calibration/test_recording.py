"""What is recorded is what the pipeline gave its UNet, for each prompt whatever its batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from dgq.calibration.arranging import arranged, joined
from dgq.calibration.recording import record_calls, recording
from dgq.calibration.unet_calls import UNetCalls
from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import GenerationSettings
from tests.tiny_pipelines import micro_unet, unet_call

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
    unet, call = micro_unet(), unet_call(micro_unet(), 1, 5.0)
    call["sample"][0, 0, 0, 0] = torch.nan
    with pytest.raises(DGQError, match="not finite"), recording(unet):
        unet(**call)
    assert not unet._forward_pre_hooks


@torch.no_grad()
def test_recorded_calls_are_keyword_arguments_that_share_what_does_not_change() -> None:
    unet = micro_unet()
    text = torch.randn(2, 7, 16)
    samples = [torch.randn(2, 4, 8, 8) for _ in range(3)]
    with recording(unet) as calls:
        for i, sample in enumerate(samples):
            unet(sample, 10 * i, text, None, return_dict=False)
        text.zero_()
        unet(samples[0], timestep=40, encoder_hidden_states=text)
    assert len(calls) == 4
    assert all(c.keys() == {"sample", "timestep", "encoder_hidden_states"} for c in calls)
    assert calls[2]["timestep"] == 20
    assert torch.equal(calls[1]["sample"], samples[1])
    assert calls[0]["encoder_hidden_states"] is calls[2]["encoder_hidden_states"]
    assert calls[0]["encoder_hidden_states"].abs().sum() > 0
    assert calls[3]["encoder_hidden_states"].abs().sum() == 0


@torch.no_grad()
def test_nested_arguments_are_copied_and_shared_too() -> None:
    """As the time ids of SDXL, and the images of an IP-Adapter."""

    class Stock(nn.Module):
        def forward(self, sample: Tensor, timestep: int, added_cond_kwargs: Any) -> None: ...

    unet, ids, image = Stock(), torch.ones(2, 6), torch.ones(2, 3)
    with recording(unet) as calls:
        for timestep in (9, 5):
            unet(torch.zeros(2, 1), timestep, {"time_ids": ids, "image_embeds": (image,)})
        ids.zero_()
        image.zero_()
        unet(torch.zeros(2, 1), 1, {"time_ids": ids, "image_embeds": [image]})
    first, second, third = (call["added_cond_kwargs"] for call in calls)
    assert first["time_ids"] is second["time_ids"]
    assert first["image_embeds"][0] is second["image_embeds"][0]
    assert first["time_ids"].eq(1).all()
    assert first["image_embeds"][0].eq(1).all()
    assert third["time_ids"].eq(0).all()
    assert third["image_embeds"][0].eq(0).all()


def call_of(n: int, timestep: float, **changes: Any) -> dict[str, Any]:
    """A recorded call of ``n`` rows that share their latents."""
    sample = torch.randn(1, 4, 2, 2).repeat(n, 1, 1, 1)
    return {
        "sample": sample,
        "timestep": torch.tensor(timestep),
        "text": torch.ones(n, 3),
    } | changes


def rows_of(calls: UNetCalls, call: int) -> dict[str, Any]:
    everyone = torch.arange(calls.latents.shape[1])
    return calls.batch(torch.stack([torch.full_like(everyone, call), everyone], 1))


def test_conditioning_that_changes_from_step_to_step_is_kept_for_each() -> None:
    given = [call_of(2, 9.0), call_of(2, 5.0, text=torch.zeros(2, 3))]
    constant = [call | {"text": torch.ones(2, 3)} for call in given]
    calls = joined([arranged(constant, 1), arranged(given, 1)])
    assert rows_of(calls, 0)["text"].eq(1).all()
    assert torch.equal(rows_of(calls, 1)["text"][:, 0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert calls.conditioning == {}
    assert calls.n_halves == 2


def test_halves_with_different_latents_are_kept_apart() -> None:
    given = [call_of(2, t, sample=torch.randn(2, 4, 2, 2)) for t in (9.0, 5.0)]
    calls = arranged(given, 1)
    for index, call in enumerate(given):
        assert torch.equal(rows_of(calls, index)["sample"], call["sample"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residuals": [torch.zeros(2, 3)]}, "gives its UNet a list, residuals: record"),
        (
            {"added_cond_kwargs": {"image_embeds": [torch.zeros(2, 3)]}},
            "a list, added_cond_kwargs.image_embeds: record",
        ),
        ({"text": torch.zeros(1, 3)}, "text of shape \\(1, 3\\) for 2 rows"),
    ],
)
def test_what_cannot_be_arranged_by_prompt_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DGQError, match=message):
        arranged([call_of(2, 1.0, **changes)], 1)


def test_arguments_that_come_and_go_are_refused() -> None:
    with pytest.raises(DGQError, match="other arguments from call to call"):
        arranged([call_of(2, 9.0), call_of(2, 5.0, more=torch.zeros(2, 1))], 1)
