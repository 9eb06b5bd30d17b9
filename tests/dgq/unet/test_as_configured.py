"""A UNet is calibrated only if its configuration builds the same one, which is what gets loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import dgq
from dgq.unet.as_configured import check_as_configured
from tests.model_zoo import CALIBRATE, micro
from tests.unet_zoo import CALIBRATE as FEATURES
from tests.unet_zoo import Wrapped, unet_call

NEAREST = dgq.Custom(
    dgq.QuantizationSettings(dgq.WeightSettings(4, "minmax"), keep=("*_blocks.*",)),
    dgq.LearningSettings(iterations=0, polish_iterations=0),
)


class OwnNorm(nn.GroupNorm):
    """A norm that computes in its own way."""


def resnet(unet: Any) -> Any:
    return unet.mid_block.resnets[0]


def attention(unet: Any) -> Any:
    return unet.mid_block.attentions[0].transformer_blocks[0].attn1


def eight_channels(unet: Any) -> None:
    """Also take an image, as for training InstructPix2Pix."""
    torch.manual_seed(0)
    unet.conv_in = nn.Conv2d(8, 8, 3, padding=1)


NORM, CONV = "mid_block.resnets.0.norm1", "mid_block.resnets.0.conv1"
OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a scale": (
        lambda u: setattr(resnet(u), "output_scale_factor", 3.0),
        r"^output_scale_factor of mid_block.resnets.0 is 3.0, by its configuration 1",
    ),
    "the scale of scores": (lambda u: setattr(attention(u), "scale", 0.5), "^scale of .* is 0.5"),
    "an epsilon": (lambda u: setattr(resnet(u).norm1, "eps", 0.1), f"^eps of {NORM} is 0.1"),
    "an activation function": (
        lambda u: setattr(resnet(u), "nonlinearity", nn.Tanh()),
        "nonlinearity is a Tanh, by its configuration SiLU",
    ),
    "a norm of its own": (
        lambda u: setattr(resnet(u), "norm1", OwnNorm(4, 16)),
        f"^{NORM} is a OwnNorm, by its configuration GroupNorm",
    ),
    "a parametrized norm": (
        lambda u: parametrizations.weight_norm(resnet(u).norm1),
        f"^{NORM} is a ParametrizedGroupNorm",
    ),
    "no bias": (
        lambda u: resnet(u).conv1.register_parameter("bias", None),
        rf"^bias of {CONV} is None, by its configuration \[16\]",
    ),
    "a bias": (
        lambda u: setattr(attention(u).to_q, "bias", nn.Parameter(torch.ones(16))),
        r"^bias of .*to_q is \[16\], by its configuration None",
    ),
    "a buffer": (
        lambda u: resnet(u).register_buffer("gain", torch.ones(2)),
        r"^gain of mid_block.resnets.0 is \[2\], by its configuration None",
    ),
    "a layer more": (
        lambda u: u.add_module("refiner", nn.Linear(2, 2)),
        r"^refiner \(Linear\) is not in its configuration",
    ),
    "a layer less": (
        lambda u: setattr(resnet(u), "nonlinearity", None),
        r"^mid_block.resnets.0.nonlinearity \(SiLU\) of its configuration is missing",
    ),
    "a layer around another": (
        lambda u: setattr(resnet(u), "conv1", Wrapped(resnet(u).conv1, {})),
        f"^{CONV} is a Wrapped",
    ),
    "channels that were not registered": (
        eight_channels,
        "^in_channels of conv_in is 8, by its configuration 4",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_unet_is_refused_before_any_work(name: str) -> None:
    change, message = OTHERS[name]
    unet = micro()
    calls = [unet_call(unet, 3, t, seed=int(t)) for t in (801.0, 1.0)]
    change(unet)
    before = {n: (type(m), id(m)) for n, m in unet.named_modules()}
    with pytest.raises(dgq.DGQError, match=message) as error:
        dgq.calibrate(unet, calls, NEAREST, progress=False)
    assert "\n" not in str(error.value)
    assert {n: (type(m), id(m)) for n, m in unet.named_modules()} == before


@pytest.mark.parametrize("name", [*FEATURES, *CALIBRATE])
def test_what_a_configuration_builds_passes(name: str) -> None:
    check_as_configured(micro(**(FEATURES[name] if name in FEATURES else CALIBRATE[name].unet)))


@pytest.mark.parametrize(
    "change",
    [
        lambda u: u.train(),
        lambda u: u.enable_gradient_checkpointing(),
        lambda u: u.set_attention_slice("max"),
        lambda u: u.enable_freeu(0.9, 0.2, 1.2, 1.4),
        lambda u: u.to(memory_format=torch.channels_last),
        lambda u: u.register_to_config(sample_size=64),
    ],
)
def test_what_is_done_to_a_unet_in_use_passes(change: Callable[[Any], Any]) -> None:
    unet = micro()
    change(unet)
    check_as_configured(unet)


def test_what_was_registered_since_is_loaded(tmp_path: Path) -> None:
    unet = micro()
    eight_channels(unet)
    unet.register_to_config(in_channels=8)
    calls = [unet_call(unet, 3, t, seed=int(t)) for t in (801.0, 1.0)]
    result = dgq.calibrate(unet, calls, NEAREST, progress=False)
    loaded = dgq.load_quantized_unet(dgq.save(result, tmp_path), "float", torch.float32)
    with torch.no_grad():
        assert torch.equal(loaded(**calls[0])[0], unet(**calls[0])[0])
    # Nor does the file depend on the order of a set, which differs between processes.
    assert "_use_default_values" not in json.loads((tmp_path / "config.json").read_text())
