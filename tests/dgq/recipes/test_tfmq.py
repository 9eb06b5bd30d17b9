"""TFMQ-DM: the time path as one target of a calibration, ranges for each step."""

from typing import Any

import pytest
import torch

import dgq
from dgq.calibration.calibrator import Calibrator
from dgq.unet.layers import quantized_layers
from dgq.unet.quantize import activation_quantizers
from tests.model_zoo import XL, micro
from tests.quantized_models import layers_by_target
from tests.tiny_pipelines import micro_unet, unet_call

TIMESTEPS = (801.0, 401.0, 1.0)
FEW = ("conv_in", "conv_out", "*attn*", "*proj_in", "*proj_out", "*.conv1", "*.conv2", "*.ff.*")
FAST = dgq.LearningSettings(iterations=40, polish_iterations=10)
PATH = "time_path"


def random_calls(unet: Any) -> list[dict[str, Any]]:
    return [unet_call(unet, 2, t, seed=10 * k + i) for k in (0, 1) for i, t in enumerate(TIMESTEPS)]


@pytest.fixture(scope="module", params=[{}, XL], ids=["sd", "xl"])
def result(request: pytest.FixtureRequest) -> dgq.CalibrationResult:
    """Of a UNet and recorded calls; not to be changed."""
    unet = micro(**request.param)
    recipe = dgq.TFMQ(4, 8, keep=FEW, learning=FAST)
    return dgq.calibrate(unet, random_calls(unet), recipe, batch_size=4, progress=False)


def test_the_time_path_comes_first_and_is_learned(result: dgq.CalibrationResult) -> None:
    targets = result.report.targets
    assert targets[0].name == PATH
    assert targets[0].error < 0.8 * targets[0].error_nearest
    assert all(0 < t.error < 1 for t in targets)
    assert not any("time_embedding" in t.name for t in targets)


def test_every_layer_is_quantized_and_belongs_to_one_target() -> None:
    unet, recipe = micro_unet(), dgq.TFMQ(4, 8)
    calibrator = Calibrator(unet, recipe)
    calibrator.quantize_(TIMESTEPS, (8, 8), random_calls(unet)[0])
    layers = quantized_layers(unet)
    by_target = layers_by_target(calibrator.targets, layers)
    assert sorted(n for names in by_target.values() for n in names) == sorted(layers)
    assert all(n.endswith("time_emb_proj") or "time_embedding" in n for n in by_target[PATH])
    assert next(iter(calibrator.targets)) == PATH


def test_every_activation_has_one_range_for_each_step() -> None:
    unet = micro_unet()
    nearest = dgq.LearningSettings(iterations=0, polish_iterations=0)
    recipe = dgq.TFMQ(4, 8, keep=("conv_in", "conv_out", "*.to_*"), learning=nearest)
    dgq.calibrate(unet, random_calls(unet), recipe, progress=False)
    found = activation_quantizers(unet)
    assert {tuple(q.scale.shape) for q in found.values()} == {(3, 1)}
    of_time = found["mid_block.resnets.0.time_emb_proj.input_quantizer"]
    assert of_time.scale.unique().numel() == 3


@torch.no_grad()
def test_its_reference_is_that_of_the_distinct_timesteps() -> None:
    """Samples of one timestep are one and the same to it, whatever else they are."""
    unet = micro_unet()
    path = dgq.TFMQ().targets(unet)[PATH]
    outputs = {}
    for seed in (0, 1):
        for timestep in TIMESTEPS:
            output = path.run(**unet_call(unet, 2, timestep, seed=seed))
            assert torch.equal(output[0], output[1])
            assert torch.equal(outputs.setdefault(timestep, output[0]), output[0])
    assert len({tuple(o.tolist()) for o in outputs.values()}) == 3
