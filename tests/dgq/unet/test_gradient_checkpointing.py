"""Blocks that run again for their gradients do so at the step of their call."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dgq.inference.freeze import freeze_
from dgq.storage.checkpoint import load_quantized_unet
from dgq.unet.context import quantization
from dgq.unet.quantize import quantize_
from tests.quantized_models import SETTINGS, TIMESTEPS, Calibrated
from tests.tiny_pipelines import micro_unet

Models = Callable[[str], Calibrated]
KINDS = ("kmeans", "exponents scores")


def gradient(unet: UNet2DConditionModel, found: Calibrated) -> Tensor:
    """Of a loss over several steps, with regard to the latents."""
    sample = found.call["sample"].clone().requires_grad_()
    outputs = [unet(**found.at(t) | {"sample": sample})[0] for t in TIMESTEPS]
    torch.stack([o.square().sum() for o in outputs]).sum().backward()
    assert sample.grad is not None
    return sample.grad


def reentrant_free(function: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("life", ["calibrating", "loaded", "frozen"])
@pytest.mark.parametrize(
    "function",
    [None, partial(checkpoint, use_reentrant=False), reentrant_free],
    ids=["stock", "partial", "own"],
)
def test_gradient_checkpointing_over_several_steps_changes_no_bit(
    kind: str, life: str, function: Any, calibrated_as: Models
) -> None:
    found = calibrated_as(kind)
    unet = (
        load_quantized_unet(found.folder, "float")
        if life == "loaded"
        else copy.deepcopy(found.unet)
    )
    if life == "frozen":
        unet.enable_gradient_checkpointing(function)  # before: freezing must keep it
        freeze_(unet, found.settings)
        unet.disable_gradient_checkpointing()
    unet.train()
    expected = gradient(unet, found)
    unet.enable_gradient_checkpointing(function)
    assert torch.equal(gradient(unet, found), expected)
    assert expected.abs().max() > 0
    assert unet.calls.current is None


def test_checkpointing_that_was_on_before_quantization_knows_the_step() -> None:
    unet = micro_unet()
    unet.enable_gradient_checkpointing()
    quantize_(unet, SETTINGS["kmeans"], TIMESTEPS, (8, 8))
    steps: list[list[int]] = []
    block = unet.mid_block.resnets[1]
    block.register_forward_pre_hook(lambda *_: steps.append(unet.calls.step.tolist()))
    sample = torch.randn(2, 4, 8, 8, requires_grad=True)
    unet.train()
    with quantization(unet, weights=False, activations=False):
        unet(sample, 1.0, torch.randn(2, 77, 16)).sample.sum().backward()
    assert steps == [[2], [2]]  # in the call, and when it is run again


def test_a_checkpointed_copy_uses_its_own_calls(calibrated_as: Models) -> None:
    unet = load_quantized_unet(calibrated_as("kmeans").folder, "float")
    unet.train()
    unet.enable_gradient_checkpointing()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(unet)))
    expected = gradient(unet, calibrated_as("kmeans"))
    assert torch.equal(gradient(twin, calibrated_as("kmeans")), expected)
