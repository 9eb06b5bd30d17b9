"""Which UNets are quantized, with what staying in float, and which are refused as they are."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dgq.calibration import learning
from dgq.errors import DGQError
from dgq.math.reconstruction import reconstruction_loss
from dgq.settings import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    ScoreSettings,
    WeightSettings,
)
from dgq.storage.checkpoint import load_quantized_unet, save_quantized
from dgq.streams.paired_streams import PairedStreams
from dgq.streams.visit import Visit
from dgq.targets import execution_order, find_blocks
from dgq.unet.context import quantization
from dgq.unet.layers import QuantizedLayer
from dgq.unet.quantize import fit_activations_, layers_to_quantize, quantize_, start_observing_
from tests import unet_zoo
from tests.model_zoo import micro
from tests.quantized_models import description
from tests.unet_zoo import unet_call

TIMESTEPS = (801.0, 1.0)
W8A8 = QuantizationSettings(
    WeightSettings(8, "minmax", symmetric=True),
    ActivationSettings(8, "multiples", max_exponent=0),
    ScoreSettings(16),
)
GENTLE = LearningSettings(1, 0, rounding_lr=0.01, scale_lr=1e-4)
KEPT = ("conv_in", "conv_out")


def calibrate_(unet: Any, calls: list[dict[str, Any]], settings: QuantizationSettings) -> None:
    """The whole way of a calibration, with a step of learning for each target."""
    quantize_(unet.requires_grad_(False), settings, TIMESTEPS, (8, 8))
    start_observing_(unet)
    found = find_blocks(unet, settings.keep)
    with quantization(unet, weights=False, activations=False):
        order = execution_order(unet, found, calls[0])
    streams = PairedStreams(unet, {name: found[name] for name in order}, calls)
    optimizer, _ = learning.make_optimizer(unet.modules(), GENTLE)
    for name in order:
        streams.advance_reference()
        learning.start_learning_(found[name])
        learning.set_soft_rounding_(found[name], True)
        rows = torch.arange(streams.n_rows)
        output = Visit(found[name], streams).output_and_reference(rows, False)
        (reconstruction_loss(*output) + learning.penalty(found[name], 0, GENTLE)).backward()
        optimizer.step()
        learning.set_soft_rounding_(found[name], False)
        learning.harden_(found[name])
        optimizer.state.clear()
        streams.advance_quantized()
    streams.close()
    fit_activations_(unet)


def check_calibrates(unet: Any, folder: Path, *keep: str) -> None:
    """Calibrated, saved and loaded, a UNet computes what it was calibrated to, close to stock."""
    calls = [unet_call(unet, 2, t, seed=i) for i, t in enumerate(TIMESTEPS)]
    with torch.no_grad():
        expected = [unet(**call)[0] for call in calls]
    settings = replace(W8A8, keep=KEPT + keep)
    names = layers_to_quantize(unet, settings.keep)
    save = replace(description(unet, settings), timesteps=TIMESTEPS)
    calibrate_(unet, calls, settings)
    assert all(isinstance(unet.get_submodule(name), QuantizedLayer) for name in names)
    save_quantized(unet, folder, save)
    loaded = load_quantized_unet(folder, execution="float", dtype=torch.float32)
    with torch.no_grad():
        for call, stock in zip(calls, expected, strict=True):
            calibrated = unet(**call)[0]
            torch.testing.assert_close(loaded(**call)[0], calibrated, rtol=0, atol=1e-5)
            noise = (calibrated - stock).square().sum() / stock.square().sum()
            assert 0 < noise < 10**-2.2


SIMILAR = (
    *("linear projections", "`class_embed_type` timestep", "`num_class_embeds`"),
    *("`addition_embed_type` text_time", "`upcast_attention`", "`time_cond_proj_dim`"),
    *("1x1 `conv_in`, `conv_out`", "no middle block"),
)
"""Features that a pipeline of ``model_zoo`` has too, or that change little."""


def features() -> list[object]:
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in SIMILAR else name
        for name in unet_zoo.CALIBRATE
    ]


@pytest.mark.parametrize("name", features())
def test_a_feature_of_unets_calibrates(name: str, tmp_path: Path) -> None:
    check_calibrates(micro(**unet_zoo.CALIBRATE[name]), tmp_path)


def test_a_layer_whose_weight_is_read_calibrates_where_it_is_kept(tmp_path: Path) -> None:
    check_calibrates(micro(**unet_zoo.IMAGE), tmp_path, "encoder_hid_proj.image_embeds")


@pytest.mark.parametrize("name", unet_zoo.REFUSED)
def test_what_cannot_be_quantized_is_refused_and_left_as_it_is(name: str) -> None:
    make, message = unet_zoo.REFUSED[name]
    unet = make()
    before = {n: (type(m), id(m)) for n, m in unet.named_modules()}
    with pytest.raises(DGQError, match=message) as caught:
        quantize_(unet, W8A8, TIMESTEPS, (8, 8))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert {n: (type(m), id(m)) for n, m in unet.named_modules()} == before


def test_layers_without_a_quantized_form_are_said(caplog: pytest.LogCaptureFixture) -> None:
    unet = unet_zoo.with_other_layers()
    call = unet_call(unet, 2, 1.0, 0)
    with torch.no_grad():
        expected = unet(**call)[0]
    with caplog.at_level(logging.WARNING, "dgq"):
        quantize_(unet, W8A8, TIMESTEPS, (8, 8))
    [line] = [record.getMessage() for record in caplog.records]
    more = f"{unet_zoo.CONV}.more"
    assert line.partition(": ")[2].split(", ") == [
        "class_embedding (Embedding)",
        f"{more}.one (Conv1d)",
        f"{more}.three (Conv3d)",
        f"{more}.transposed (ConvTranspose2d)",
    ]
    assert isinstance(unet.get_submodule(f"{unet_zoo.CONV}.inner"), QuantizedLayer)
    with torch.no_grad(), quantization(unet, weights=False, activations=False):
        torch.testing.assert_close(unet(**call)[0], expected, rtol=0, atol=1e-5)


def test_nothing_is_said_of_layers_that_a_pattern_keeps(caplog: pytest.LogCaptureFixture) -> None:
    quantize_(micro(), W8A8, TIMESTEPS, (8, 8))
    assert not caplog.records


def test_an_adapter_that_was_made_part_of_the_weights_is_quantized_with_them() -> None:
    unet = micro()
    unet_zoo.add_adapter(unet)
    unet.fuse_lora()
    unet.unload_lora()
    call = unet_call(unet, 1, 1.0, 0)
    with torch.no_grad():
        expected = unet(**call)[0]
        assert not torch.allclose(micro()(**call)[0], expected, atol=1e-2)
        quantize_(unet, W8A8, TIMESTEPS, (8, 8))
        with quantization(unet, weights=False, activations=False):
            torch.testing.assert_close(unet(**call)[0], expected, rtol=0, atol=1e-5)


def test_layers_that_share_a_weight_are_quantized_each(tmp_path: Path) -> None:
    check_calibrates(unet_zoo.with_shared_weights(), tmp_path)


def test_a_layer_that_never_runs_is_refused_before_the_calibration() -> None:
    unet = micro()
    unet.mid_block.resnets[0].register_module("spare", nn.Linear(2, 2))
    unet.register_module("unused", nn.Linear(2, 2))
    call = unet_call(unet, 1, 1.0, 0)
    quantize_(unet, W8A8, TIMESTEPS, (8, 8))
    targets = find_blocks(unet, KEPT)
    others = {name: target for name, target in targets.items() if name != "unused"}
    with quantization(unet, weights=False, activations=False):
        with pytest.raises(DGQError, match=r"^unused never runs.*quantization.keep unused\*"):
            execution_order(unet, targets, call)
        with pytest.raises(DGQError, match=r"^mid_block.resnets.0.spare never runs"):
            execution_order(unet, others, call)
