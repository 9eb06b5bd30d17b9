"""SQNR against its formula, and on the very calls that a pipeline makes."""

import copy
import math
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from dgq.errors import DGQError
from dgq.inspection.cost import count_operations
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import GenerationSettings
from evaluation.fidelity.sqnr import SqnrMeter, guide, unet_sqnr
from evaluation.fidelity.trajectory import (
    Trajectory,
    is_recorded,
    load_trajectories,
    recording_trajectory,
)
from evaluation.images.sampling import record_call, sample

PROMPTS = ["a red circle", "a blue square", "two stars"]
SEED = 5


@pytest.fixture
def perturbed(pipeline: DiffusionPipeline) -> nn.Module:
    """A UNet that differs from the pipeline's in one layer."""
    unet = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.9)
    return unet


def record(pipeline: DiffusionPipeline, generation: GenerationSettings) -> Trajectory:
    """The calls of all prompts, drawn together."""
    with recording_trajectory(pipeline.unet, len(PROMPTS)) as finished:
        sample(pipeline, PROMPTS, range(len(PROMPTS)), generation, SEED)
    return finished()


def save(trajectory: Trajectory, folder: Path) -> list[Path]:
    """A file for each prompt."""
    paths = [folder / f"{i}.safetensors" for i in range(len(PROMPTS))]
    for position, path in enumerate(paths):
        trajectory.of_prompt(position).save(path, path.stem)
    return paths


def test_meter_adds_up_energies_within_a_step() -> None:
    meter = SqnrMeter()
    reference, output = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    meter.update(0, reference, output)
    meter.update(1, reference[:1], output[:1])
    meter.update(1, reference[1:], output[1:])
    noise = (reference - output).square().sum()
    expected = 10 * torch.log10(reference.square().sum() / noise).item()
    meter.update(2, reference, reference)
    assert meter.per_step() == pytest.approx([expected, expected, math.inf], rel=1e-5)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_sqnr_equals_that_of_live_calls(
    pipeline: DiffusionPipeline, perturbed: nn.Module, tmp_path: Path, guidance_scale: float
) -> None:
    generation = GenerationSettings(2, guidance_scale)
    plain: list[float] = []
    guided: list[float] = []

    def compare(_: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:  # type: ignore[type-arg]
        with torch.no_grad():
            other = perturbed(*args, **kwargs)[0]
        for values, f in ((plain, lambda x: x), (guided, lambda x: guide(x, guidance_scale))):
            a, b = f(output[0]), f(other)
            values.append(10 * math.log10(a.square().sum() / (a - b).square().sum()))

    handle = pipeline.unet.register_forward_hook(compare, with_kwargs=True)
    trajectory = record(pipeline, generation)
    handle.remove()
    paths = save(trajectory, tmp_path)
    # PNDM makes one call more than it has steps.
    assert len(plain) == generation.num_inference_steps + 1
    for batch_size in (3, 2):
        done: list[int] = []
        actual = unet_sqnr(perturbed, paths, guidance_scale, batch_size, "cpu", done.append)
        assert sum(done) == 3
        assert actual.plain == pytest.approx(plain, abs=0.01)
        if guidance_scale > 1:
            assert actual.guided == pytest.approx(guided, abs=0.01)
        else:
            assert actual.guided is None


def test_guidance_weights_the_difference() -> None:
    halves = torch.tensor([[1.0], [2.0], [5.0], [4.0]])
    torch.testing.assert_close(guide(halves, 3.0), torch.tensor([[13.0], [8.0]]))


def test_a_unet_repeats_its_own_calls_exactly(
    pipeline: DiffusionPipeline, generation: GenerationSettings, tmp_path: Path
) -> None:
    paths = save(record(pipeline, generation), tmp_path)
    assert not pipeline.unet._forward_hooks
    sqnr = unet_sqnr(pipeline.unet, paths, 3.0, 3, "cpu", lambda _: None)
    assert set(sqnr.plain) == {math.inf}


def test_trajectories_of_prompts_go_together_again(
    pipeline: DiffusionPipeline, generation: GenerationSettings, tmp_path: Path
) -> None:
    whole = record(pipeline, generation)
    paths = save(whole, tmp_path)
    again = load_trajectories(paths)
    for name in ("samples", "timesteps", "outputs"):
        assert torch.equal(getattr(again, name), getattr(whole, name))
    assert again.conditioning.keys() == {"encoder_hidden_states"}
    assert again.samples.shape[:3] == (3, 2, 3)
    assert all(is_recorded(path, path.stem) for path in paths)
    assert not is_recorded(paths[0], paths[1].stem)


@pytest.mark.parametrize("cut", [0, 8, 200, -10])
def test_a_damaged_trajectory_is_noticed(
    pipeline: DiffusionPipeline, generation: GenerationSettings, tmp_path: Path, cut: int
) -> None:
    path = save(record(pipeline, generation), tmp_path)[0]
    path.write_bytes(path.read_bytes()[:cut])
    assert not is_recorded(path, path.stem)
    with pytest.raises(DGQError, match=r"0\.safetensors"):
        load_trajectories([path])


@pytest.mark.parametrize(("guidance_scale", "batch"), [(1.0, 1), (3.0, 2)])
def test_a_recorded_call_is_doubled_by_guidance(
    pipeline: DiffusionPipeline, guidance_scale: float, batch: int
) -> None:
    args, _ = record_call(pipeline, PROMPTS[:1], GenerationSettings(2, guidance_scale))
    assert args[0].shape == (batch, 4, 8, 8)
    assert not pipeline.unet._forward_pre_hooks


def test_the_structure_of_sdxl_is_measured_alike(sdxl_folder: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(str(sdxl_folder))
    generation = GenerationSettings(num_inference_steps=2, guidance_scale=0.0)
    trajectory = record(pipeline, generation)
    assert "added_cond_kwargs.time_ids" in trajectory.conditioning
    halved = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for parameter in halved.conv_out.parameters():
            parameter.mul_(0.5)
    # Half the output is missing: the noise has a quarter of the signal's energy.
    sqnr = unet_sqnr(halved, save(trajectory, tmp_path), 0.0, 2, "cpu", lambda _: None)
    assert sqnr.plain == pytest.approx([10 * math.log10(4)] * 2, abs=1e-3)
    args, kwargs = record_call(pipeline, PROMPTS[:1], generation)
    operations = count_operations(pipeline.unet, args, kwargs)
    assert operations.layer_bops == operations.layer_macs * 32 * 32 > 0
    assert operations.attention_macs > 0
