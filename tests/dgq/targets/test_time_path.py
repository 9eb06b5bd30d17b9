"""The time embedding and its projections as one target."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from dgq.calibration.learning import harden_, start_learning_
from dgq.settings import QuantizationSettings, WeightSettings
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.visit import Visit
from dgq.targets import Target, execution_order, find_blocks
from dgq.targets.time_path import PROJECTION, find_time_path
from dgq.unet.context import quantization
from dgq.unet.layers import quantized_layers
from dgq.unet.quantize import quantize_, start_observing_
from tests import unet_zoo
from tests.model_zoo import XL, micro
from tests.quantized_models import layers_by_target
from tests.tiny_pipelines import micro_unet, unet_call

KEEP = ("conv_in", "conv_out")
SETTINGS = QuantizationSettings(WeightSettings(4, "minmax"))
TIMESTEPS = (801.0, 401.0, 1.0)


def micro_xl() -> UNet2DConditionModel:
    """One that is told sizes and a pooled text beside the timestep."""
    return micro(**XL)


def all_targets(unet: UNet2DConditionModel) -> dict[str, Target]:
    path, names = find_time_path(unet, KEEP)
    return {**find_blocks(unet, KEEP, names), **path}


def calls_of(unet: UNet2DConditionModel) -> list[dict[str, Any]]:
    return [unet_call(unet, 2, t, seed=i) for i, t in enumerate(TIMESTEPS)]


@pytest.mark.parametrize("name", unet_zoo.CALIBRATE)
@torch.no_grad()
def test_it_computes_what_all_resnets_add(name: str) -> None:
    unet = micro(**unet_zoo.CALIBRATE[name])
    call = unet_zoo.unet_call(unet, 2, TIMESTEPS[1], 0)
    path, _ = find_time_path(unet, KEEP)
    found: list[torch.Tensor] = []
    for name, module in unet.named_modules():
        if name.endswith(PROJECTION):
            module.register_forward_hook(lambda _module, _args, output: found.append(output))
    unet(**call)
    in_order_of_execution = found[:]
    found.clear()
    together = path["time_path"].run(**call)
    assert len(found) == len(in_order_of_execution) > 2
    assert torch.equal(together, torch.cat(found, dim=1))
    as_text = sorted(str(t.tolist()) for t in found)
    assert as_text == sorted(str(t.tolist()) for t in in_order_of_execution)


@pytest.mark.parametrize("make", [micro_unet, micro_xl])
def test_every_layer_still_belongs_to_one_target(make: Callable[[], UNet2DConditionModel]) -> None:
    unet = quantize_(make(), SETTINGS, TIMESTEPS, (8, 8))
    layers = quantized_layers(unet)
    by_target = layers_by_target(all_targets(unet), layers)
    assert sorted(name for names in by_target.values() for name in names) == sorted(layers)
    of_path = by_target["time_path"]
    assert {name.partition(".")[0] for name in of_path} >= {"time_embedding"}
    assert sum(name.endswith(PROJECTION) for name in of_path) > 2
    others = (n for target, names in by_target.items() if target != "time_path" for n in names)
    assert not any(PROJECTION in name for name in others)


@pytest.mark.parametrize("make", [micro_unet, micro_xl])
def test_streams_wait_for_it_before_anything_else(
    make: Callable[[], UNet2DConditionModel],
) -> None:
    unet = quantize_(make(), SETTINGS, TIMESTEPS, (8, 8))
    start_observing_(unet)
    calls, found = calls_of(unet), all_targets(unet)
    with quantization(unet, weights=False, activations=False):
        plain = [unet(**call)[0] for call in calls]
        order = execution_order(unet, found, calls[0])
    assert order[0] == "time_path"
    streams = PairedStreams(unet, {name: found[name] for name in order}, calls)
    path = found["time_path"]
    rows = torch.arange(streams.n_rows)
    for name in order:
        streams.advance_reference()
        if name == "time_path":
            with quantization(unet, weights=False, activations=False):
                expected = torch.cat([path.run(**call) for call in calls])
            assert torch.allclose(streams.references(rows), expected, atol=1e-6)
            assert streams.inputs(rows).step.tolist() == [0, 0, 1, 1, 2, 2]
        start_learning_(found[name])
        if name == "time_path":
            output, reference = Visit(path, streams).output_and_reference(rows, False)
            assert 0 < (output - reference).norm() < reference.norm()
            assert output.requires_grad
        harden_(found[name])
        streams.advance_quantized()
    outputs = streams.full_precision.results
    assert all(torch.equal(o[0], p) for o, p in zip(outputs, plain, strict=True))
    with quantization(unet, weights=True, activations=False), torch.no_grad():
        quantized = [unet(**call)[0] for call in calls]
    outputs = streams.quantized.results
    assert all(torch.allclose(o[0], q, atol=1e-5) for o, q in zip(outputs, quantized, strict=True))
    streams.close()
