"""Streams against plain forward passes, bit for bit."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dgq.pipelines.loading import load_unet
from dgq.settings import QuantizationSettings, WeightSettings
from dgq.streams.streaming import Stream
from dgq.targets import execution_order, find_blocks
from dgq.unet.context import at_step, context_of, quantization
from dgq.unet.quantize import quantize_
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

FAST = QuantizationSettings(WeightSettings(4, "minmax"))
TIMESTEPS = (801.0, 401.0)


def ordered_targets(unet: UNet2DConditionModel, call: dict[str, Any]) -> dict[str, nn.Module]:
    found = find_blocks(unet, FAST.keep)
    with quantization(unet, weights=False, activations=False):
        return {name: found[name] for name in execution_order(unet, found, call)}


@pytest.mark.parametrize("fixture", ["sd_folder", "sdxl_folder"])
@torch.no_grad()
def test_a_stream_equals_the_plain_forward_and_visits_targets_in_order(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    unet = quantize_(load_unet(str(folder)), FAST, TIMESTEPS, (8, 8))
    calls = [unet_call(unet, 2, t, seed=i) for i, t in enumerate(TIMESTEPS)]
    targets = ordered_targets(unet, calls[0])
    visited = []
    with (
        quantization(unet, weights=False, activations=False),
        Stream(unet, targets, calls) as stream,
    ):
        while (name := stream.advance()) is not None:
            visited.append(name)
        results = [result[0] for result in stream.results]
    with quantization(unet, weights=False, activations=False):
        assert all(
            torch.equal(found, unet(**call)[0]) for found, call in zip(results, calls, strict=True)
        )
    assert visited == list(targets)


@torch.no_grad()
def test_each_pass_keeps_its_own_step_while_others_run() -> None:
    unet = calibrate_(micro_unet(), FAST, TIMESTEPS)
    calls = [unet_call(unet, 2, t, seed=i) for i, t in enumerate(TIMESTEPS)]
    plain = [unet(**call)[0] for call in calls]
    with Stream(unet, ordered_targets(unet, calls[0]), calls) as stream:
        stream.advance()
        while stream.waiting_at is not None:
            assert [item.step.tolist() for item in stream.inputs] == [[0, 0], [1, 1]]
            stream.advance()
        assert all(torch.equal(r[0], p) for r, p in zip(stream.results, plain, strict=True))


@torch.no_grad()
def test_captured_inputs_reproduce_the_outputs_of_each_target() -> None:
    unet = calibrate_(micro_unet(), FAST, TIMESTEPS)
    call = unet_call(unet, 2, TIMESTEPS[1])
    targets = ordered_targets(unet, call)
    with Stream(unet, targets, [call]) as stream:
        name = stream.advance()
        while name is not None:
            item, target = stream.inputs[0], targets[name]
            with at_step(context_of(unet), item.step):
                expected = target.run(*item.args, **item.kwargs)
            name = stream.advance()
            assert torch.equal(stream.outputs[0], expected)


@torch.no_grad()
def test_a_target_that_changes_while_a_pass_waits_runs_as_changed() -> None:
    unet = quantize_(micro_unet(), FAST, TIMESTEPS, (8, 8))
    call = unet_call(unet, 1, TIMESTEPS[0])
    with quantization(unet, weights=False, activations=False):
        plain = unet(**call)[0]
        with Stream(unet, ordered_targets(unet, call), [call]) as stream:
            while stream.advance() != "up_blocks.1.resnets.1":
                pass
            unet.up_blocks[1].resnets[1].conv2.weight.mul_(2)
            while stream.advance() is not None:
                pass
            changed = stream.results[0][0]
        assert not torch.equal(changed, plain)
        assert torch.equal(changed, unet(**call)[0])


@torch.no_grad()
def test_closing_early_removes_hooks_and_frees_what_was_held() -> None:
    unet = quantize_(micro_unet(), FAST, TIMESTEPS, (8, 8))
    call = unet_call(unet, 1, TIMESTEPS[0])
    targets = ordered_targets(unet, call)
    with quantization(unet, weights=False, activations=False):
        expected = unet(**call)[0]
        gc.collect()
        before = live_tensors()
        with Stream(unet, targets, [call]) as stream:
            for _ in range(5):
                stream.advance()
            assert live_tensors() > before
        gc.collect()
        assert live_tensors() <= before  # fewer if an earlier test left some
        modules = [target.entrance for target in targets.values()]
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in modules)
        assert torch.equal(unet(**call)[0], expected)


def live_tensors() -> int:
    return sum(isinstance(item, Tensor) for item in gc.get_objects())


@torch.no_grad()
def test_hooks_leave_other_calls_of_the_unet_alone() -> None:
    unet = quantize_(micro_unet(), FAST, TIMESTEPS, (8, 8))
    call = unet_call(unet, 1, TIMESTEPS[0])
    with quantization(unet, weights=False, activations=False):
        expected = unet(**call)[0]
        with Stream(unet, ordered_targets(unet, call), [call]) as stream:
            stream.advance()
            assert torch.equal(unet(**call)[0], expected)
            assert stream.outputs == []


def test_the_step_is_restored_after_running_a_part() -> None:
    unet = quantize_(micro_unet(), FAST, TIMESTEPS, (8, 8))
    before = context_of(unet).step

    def fail() -> None:
        with at_step(context_of(unet), torch.tensor([1])):
            assert context_of(unet).step.tolist() == [1]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert context_of(unet).step is before
