"""SQNR against its formula, and on the very calls that a pipeline makes."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from rich.progress import Progress
from torch import Tensor, nn

from dgq.cost import count_operations
from dgq.pipelines import load_pipeline
from lit.evaluation.fidelity import SqnrMeter, record_call, sqnr_db, unet_sqnr
from lit.evaluation.generation import Sampling, sample

PROMPTS = ["a red circle", "a blue square", "two stars"]


@pytest.fixture
def progress() -> Progress:
    return Progress(disable=True)


@pytest.fixture
def perturbed(pipeline: DiffusionPipeline) -> nn.Module:
    """A UNet that differs from the pipeline's in one layer."""
    unet = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.9)
    return unet


def test_formula() -> None:
    assert sqnr_db(100.0, 1.0) == pytest.approx(20)
    assert sqnr_db(1.0, 0.0) == math.inf
    assert sqnr_db(0.0, 1.0) == -math.inf


def test_meter_adds_up_energies_within_a_step() -> None:
    meter = SqnrMeter()
    reference, output = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    meter.update(0, reference, output)
    meter.update(1, reference[:1], output[:1])
    meter.update(1, reference[1:], output[1:])
    noise = (reference - output).square().sum()
    expected = 10 * torch.log10(reference.square().sum() / noise).item()
    assert meter.per_step() == pytest.approx([expected, expected], rel=1e-5)


def test_sqnr_equals_recorded_and_replayed_calls(
    pipeline: DiffusionPipeline, perturbed: nn.Module, sampling: Sampling, progress: Progress
) -> None:
    calls: list[tuple[Any, Any, Tensor]] = []
    handle = pipeline.unet.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output[0])), with_kwargs=True
    )
    sample(pipeline, PROMPTS, range(3), sampling)
    handle.remove()
    expected = []
    for args, kwargs, reference in calls:
        with torch.no_grad():
            noise = reference - perturbed(*args, **kwargs)[0]
        expected.append(10 * math.log10(reference.square().sum() / noise.square().sum()))
    for batch_size in (3, 2):
        actual = unet_sqnr(pipeline, perturbed, PROMPTS, sampling, batch_size, progress)
        # PNDM makes one call more than it has steps.
        assert len(actual) == sampling.num_inference_steps + 1
        assert actual == pytest.approx(expected, abs=0.01)


def test_equal_unets_are_infinitely_close_and_keep_no_hooks(
    pipeline: DiffusionPipeline, sampling: Sampling, progress: Progress
) -> None:
    same = copy.deepcopy(pipeline.unet)
    assert set(unet_sqnr(pipeline, same, PROMPTS[:1], sampling, 1, progress)) == {math.inf}
    assert not pipeline.unet._forward_hooks


@pytest.mark.parametrize(("guidance_scale", "batch"), [(1.0, 1), (3.0, 2)])
def test_a_recorded_call_is_doubled_by_guidance(
    pipeline: DiffusionPipeline, guidance_scale: float, batch: int
) -> None:
    args, _ = record_call(pipeline, PROMPTS[0], Sampling(2, guidance_scale, seed=0))
    assert args[0].shape == (batch, 4, 8, 8)
    assert not pipeline.unet._forward_pre_hooks


def test_the_structure_of_sdxl_is_measured_alike(sdxl_folder: Path, progress: Progress) -> None:
    pipeline = load_pipeline(str(sdxl_folder))
    sampling = Sampling(num_inference_steps=2, guidance_scale=0.0, seed=0)
    halved = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for parameter in halved.conv_out.parameters():
            parameter.mul_(0.5)
    # Half the output is missing: the noise has a quarter of the signal's energy.
    sqnr = unet_sqnr(pipeline, halved, PROMPTS, sampling, 2, progress)
    assert sqnr == pytest.approx([10 * math.log10(4)] * 2, abs=1e-3)
    args, kwargs = record_call(pipeline, PROMPTS[0], sampling)
    operations = count_operations(pipeline.unet, args, kwargs)
    assert operations.layer_bops == operations.layer_macs * 32 * 32 > 0
    assert operations.attention_macs > 0
