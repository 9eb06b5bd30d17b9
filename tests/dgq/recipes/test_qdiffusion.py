"""Q-Diffusion: the parts of a joined input, and of its weight, quantized separately."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dgq
from dgq.errors import DGQError
from dgq.export.comfyui import tensors_of
from dgq.inference.integer_layer import IntegerLayer
from dgq.math.range_search import weight_range
from dgq.ops import cpu
from dgq.settings import QuantizationSettings
from dgq.storage.checkpoint import load_quantized_unet
from dgq.storage.dequantize import dequantize
from dgq.unet.context import QuantizationContext, quantization
from dgq.unet.quantize import fit_activations_, start_observing_, swap_layer_
from dgq.unet.skips import channels_from_below
from dgq.unet.split_layer import SplitConv2d, split_
from tests.model_zoo import micro
from tests.quantized_models import decibels
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

RECIPE = dgq.QDiffusion(4, 6)
TIMESTEPS = (801.0, 401.0, 1.0)
NAME = "up_blocks.1.resnets.0.conv_shortcut"
BUT_THE_WAY_UP = ("conv_in", "conv_out", "time_embedding*", "down_blocks*", "mid_block*", "*attn*")
FAST = dgq.LearningSettings(iterations=40, polish_iterations=10)
NEAREST = dgq.LearningSettings(iterations=0, polish_iterations=0)


def random_calls() -> list[dict[str, Any]]:
    """Two of two rows at each timestep."""
    return [
        unet_call(micro_unet(), 2, t, seed=2 * i + k)
        for i, t in enumerate(TIMESTEPS)
        for k in (0, 1)
    ]


@torch.no_grad()
def inputs_of(unet: nn.Module, name: str, calls: Sequence[dict[str, Any]]) -> Tensor:
    """What a layer reads in all calls."""
    found: list[Tensor] = []
    hook = unet.get_submodule(name).register_forward_pre_hook(lambda _m, a: found.append(a[0]))
    for call in calls:
        unet(**call)
    hook.remove()
    return torch.cat(found)


@pytest.fixture(scope="module")
def calibrated() -> Any:
    """A micro UNet with nearest rounding; not to be changed."""
    return calibrate_(micro_unet(), RECIPE.quantization, TIMESTEPS, random_calls())


def fake_quantized(x: np.ndarray, low: Any, high: Any, n_bits: int) -> np.ndarray:
    """Affine fake quantization, in double precision; ranges are broadcast."""
    scale = (high - low) / (2**n_bits - 1)
    zero_point = np.rint(-low / scale)
    codes = np.clip(np.rint(x / scale) + zero_point, 0, 2**n_bits - 1)
    return scale * (codes - zero_point)


@torch.no_grad()
def test_a_split_layer_against_one_written_from_the_paper(calibrated: Any) -> None:
    """Ranges of both parts from all calls, scales of both parts of each output channel."""
    stock = micro_unet()
    x = inputs_of(stock, NAME, random_calls())
    layer = stock.get_submodule(NAME)
    leading = channels_from_below(stock)[NAME.removesuffix(".conv_shortcut")]
    assert 0 < leading < x.shape[1]
    expected = torch.zeros(())
    for part in (slice(0, leading), slice(leading, None)):
        own, weight = x[:, part].double().numpy(), layer.weight[:, part]
        quantized = fake_quantized(own, own.min(), own.max(), 6)
        ends = [end[:, None, None, None].numpy() for end in weight_range(weight.double(), 4, "mse")]
        rounded = fake_quantized(weight.double().numpy(), *ends, 4)
        expected = expected + F.conv2d(torch.tensor(quantized), torch.tensor(rounded))
    expected = expected + layer.bias.double()[:, None, None]
    with quantization(calibrated, weights=True, activations=True):
        found = calibrated.get_submodule(NAME)(x)
    # In float32 a value between two codes may fall to either side.
    assert decibels(expected, found) > 50
    assert decibels(layer(x), found) < 40


def test_which_layers_are_split_and_how_their_ranges_are(calibrated: Any) -> None:
    resnets = channels_from_below(calibrated)
    found = {n for n, m in calibrated.named_modules() if isinstance(m, SplitConv2d)}
    assert found == {f"{n}.{leaf}" for n in resnets for leaf in ("conv1", "conv_shortcut")}
    for name in found:
        split = calibrated.get_submodule(name)
        assert split.sizes[0] == resnets[name.rpartition(".")[0]]
        parts = [split.first, split.second]
        assert [p.input_quantizer.scale.shape for p in parts] == [(1, 1), (1, 1)]  # static
        assert parts[0].input_quantizer.scale != parts[1].input_quantizer.scale
        assert [p.weight_quantizer.scale.numel() for p in parts] == [split.out_channels] * 2
        assert [p.bias is None for p in parts] == [False, True]


@torch.no_grad()
def test_it_is_saved_and_runs_in_integers(calibrated: Any, tmp_path: Any) -> None:
    result = dgq.calibrate(
        micro_unet(),
        random_calls(),
        dgq.QDiffusion(4, 8, keep=BUT_THE_WAY_UP, learning=NEAREST),
        progress=False,
    )
    dgq.save(result, tmp_path)
    call = random_calls()[0]
    with quantization(result.unet, weights=True, activations=True):
        expected = result.unet(**call)[0]
    loaded = load_quantized_unet(tmp_path, "float")
    assert torch.equal(loaded(**call)[0], expected)
    manifest = dgq.read_manifest(tmp_path)
    assert manifest.quantization.split_skips == ("conv1", "conv_shortcut")
    if not cpu.products_are_exact():
        pytest.skip("this CPU multiplies no bytes")
    integer = load_quantized_unet(tmp_path, "auto", torch.float32)
    parts = integer.get_submodule(NAME)
    assert isinstance(parts.first, IntegerLayer)
    assert isinstance(parts.second, IntegerLayer)
    assert decibels(expected, integer(**call)[0]) > 60


@torch.no_grad()
def test_dequantized_it_is_a_stock_unet(tmp_path: Any) -> None:
    result = dgq.calibrate(
        micro_unet(),
        random_calls(),
        dgq.QDiffusion(4, 16, keep=BUT_THE_WAY_UP, learning=NEAREST),
        progress=False,
    )
    dgq.save(result, tmp_path)
    unet = load_quantized_unet(tmp_path, "float")
    stock = dequantize(unet)
    assert [type(m) for m in stock.modules()] == [type(m) for m in micro_unet().modules()]
    assert stock.state_dict().keys() == micro_unet().state_dict().keys()
    call = random_calls()[0]
    torch.testing.assert_close(stock(**call)[0], unet(**call)[0], atol=1e-5, rtol=1e-5)
    assert tensors_of(unet).keys() >= {f"{NAME}.weight", f"{NAME}.bias"}
    assert not any(".first." in name for name in tensors_of(unet))
    with pytest.warns(UserWarning, match="a part of a quantized UNet is copied"):
        part = unet.up_blocks.state_dict()
    assert part.keys() == stock.up_blocks.state_dict().keys()


def test_learning_lowers_every_error_of_the_way_up() -> None:
    result = dgq.calibrate(
        micro_unet(),
        random_calls(),
        dgq.QDiffusion(4, 8, keep=BUT_THE_WAY_UP, learning=FAST),
        progress=False,
    )
    errors = {t.name: (t.error_nearest, t.error) for t in result.report.targets}
    resnets = channels_from_below(micro_unet())
    assert errors.keys() >= resnets.keys()
    assert all(errors[name][1] < 0.95 * errors[name][0] for name in resnets)


@pytest.mark.parametrize("split", [True, False])
@torch.no_grad()
def test_why_a_large_skip_leaves_a_small_input_no_codes(split: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 6, 6, generator=generator)
    x[:, 4:] *= 100
    unet = nn.ModuleDict({"conv": nn.Conv2d(8, 5, 1)})
    context = QuantizationContext([0], (6, 6))
    if split:
        split_(unet, {"conv": 4})
    for name in ("conv.first", "conv.second") if split else ("conv",):
        swap_layer_(unet, name, dgq.QDiffusion(16, 6).quantization, context)
    start_observing_(unet)
    context.observing, context.activations = True, False
    unet["conv"](x)
    fit_activations_(unet)
    x[:, 4:] = 0
    context.observing = False
    exact = unet["conv"](x)
    context.activations = True
    assert (decibels(exact, unet["conv"](x)) > 20) == split


def test_kept_layers_are_not_split() -> None:
    keep = ("conv_in", "conv_out", NAME, "up_blocks.0*")
    recipe = dgq.QDiffusion(keep=keep)
    unet = dgq.quantize_(micro_unet(), recipe.quantization, TIMESTEPS, (8, 8))
    found = {n for n, m in unet.named_modules() if isinstance(m, SplitConv2d)}
    assert found == {f"up_blocks.1.resnets.{i}.conv1" for i in (0, 1)} | {
        "up_blocks.1.resnets.1.conv_shortcut"
    }


@pytest.mark.parametrize("reader", [(), ("conv_shortcut",)])
def test_other_readers_of_skips(reader: Any) -> None:
    unet = micro(layers_per_block=1)
    settings = dgq.QDiffusion(split_skips=reader).quantization
    dgq.quantize_(unet, settings, TIMESTEPS, (8, 8))
    found = {n.rpartition(".")[2] for n, m in unet.named_modules() if isinstance(m, SplitConv2d)}
    assert found == set(reader)


def test_settings_that_cannot_be_are_refused_before_anything_changes() -> None:
    with pytest.raises(DGQError, match="split_skips must be one of conv1, conv_shortcut"):
        dgq.QDiffusion(split_skips=("conv2",))  # type: ignore[arg-type]
    unet = micro_unet()
    settings = QuantizationSettings(
        layers={NAME: dgq.LayerSettings()}, split_skips=("conv_shortcut",)
    )
    with pytest.raises(DGQError, match=f"layers: {NAME} is not a layer"):
        dgq.quantize_(unet, settings, TIMESTEPS, (8, 8))
    assert not any(isinstance(module, SplitConv2d) for module in unet.modules())
    parts = {f"{NAME}.second": dgq.LayerSettings(dgq.WeightSettings(8))}
    mixed = QuantizationSettings(layers=parts, split_skips=("conv_shortcut",))
    dgq.quantize_(unet, mixed, TIMESTEPS, (8, 8))
    split = unet.get_submodule(NAME)
    assert (split.first.weight_bits, split.second.weight_bits) == (4, 8)
