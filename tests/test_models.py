"""Each kind of model calibrates, from its folder to a loaded quantized UNet, or is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.calibration import CalibrationData
from dgq.calibration.unet_calls import UNetCalls
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.planning.sampler import sampler_timesteps
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.unet.layers import QuantizedLayer
from dgq.unet.quantize import layers_to_quantize
from evaluation.images.sampling import sample, using_unet
from lit.cli import main
from tests.model_zoo import CALIBRATE, REFUSED, Kind, save_index
from tests.quantized_models import decibels
from tests.tiny_pipelines import fit_arguments, learning_options

SHORT = (
    *("--data.n_prompts", "1", "--data.n_held_out", "2"),
    *learning_options(1, 1),
    *("--model.recipe.learning.rounding_lr", "0.01", "--model.recipe.learning.scale_lr", "1e-4"),
    *("--model.recipe.learning.polish_lr", "1e-4", "--model.recipe.range_method", "minmax"),
    *("--trainer.enable_progress_bar", "false"),
)
"""A calibration that learns a step and a half of each target, gently."""

MEASURED = ("x4 upscaler", "SDXL refiner")
"""Kinds whose layers get bits by their sensitivity too: a UNet with classes, and one of SDXL's."""

SIMILAR = ("Stable Diffusion 1.x", "SDXL", "SDXL-turbo", "image to image", "SDXL inpainting")
"""Kinds that differ little from others here, or that other tests calibrate."""


def kinds() -> list[object]:
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in SIMILAR else name
        for name in CALIBRATE
    ]


@pytest.mark.parametrize("name", kinds())
def test_a_kind_of_pipeline_calibrates_and_draws(name: str, tmp_path: Path) -> None:
    folder = CALIBRATE[name].save(tmp_path)
    arguments = fit_arguments(folder, tmp_path, "run", "--config", "w8a8.yaml")
    mixed = ("--model.recipe.mixed", str(name in MEASURED).lower())
    assert main([*arguments, *SHORT, *mixed], CalibrationData) == 0
    quantized = load_quantized_unet(tmp_path / "run", execution="float", dtype=torch.float32)
    stock = load_unet(str(folder))
    # What was calibrated on is reproduced: nothing is left out, and nothing is computed otherwise.
    [recording] = (tmp_path / "cache").glob("calls-*.safetensors")
    calls = UNetCalls.load(recording)
    n_calls = len(calls.timesteps)
    assert n_calls == len(sampler_timesteps(folder, 2))
    pairs = torch.stack([torch.arange(n_calls), torch.zeros(n_calls, dtype=torch.long)], 1)
    batch = calls.batch(pairs)
    with torch.no_grad():
        assert decibels(stock(**batch)[0], quantized(**batch)[0]) > 22
    kept = read_manifest(tmp_path / "run").quantization.keep
    names = layers_to_quantize(stock, kept)
    assert len(names) > 20
    assert not any(isinstance(quantized.get_submodule(n), torch.nn.Linear) for n in names)
    assert not any(isinstance(m, QuantizedLayer) for m in quantized.modules())
    # Drawing, as evaluation does, needs the same inputs as recording.
    pipeline = load_pipeline(str(folder))
    with using_unet(pipeline, quantized):
        images = sample(
            pipeline, ["a red circle"], [0], read_manifest(tmp_path / "run").generation, 0
        )
    assert images.isfinite().all()


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[[Path, Path], str]:
    """The one line that a calibration of a folder ends with, before it writes anything."""

    def refused(folder: Path, work: Path) -> str:
        assert main(fit_arguments(folder, work), CalibrationData) == 2
        [line] = capfd.readouterr().err.strip().splitlines()
        assert not (work / "run").exists()
        assert not (work / "cache").exists()
        return line

    return refused


@pytest.mark.parametrize("name", REFUSED)
def test_another_kind_is_refused_in_one_line_before_any_weight_is_read(
    name: str, tmp_path: Path, refusal: Callable[[Path, Path], str]
) -> None:
    kind, parts, message = REFUSED[name]
    line = refusal(save_index(tmp_path / "other", kind, parts), tmp_path)
    assert line.startswith(f"error: {tmp_path / 'other'} is a")
    assert f" {kind}, which cannot be calibrated: " in line
    assert message in line
    assert line.endswith("such as a StableDiffusionPipeline (docs/reference/models.md lists all)")


def test_a_unet_that_cannot_be_quantized_is_refused_before_its_calls_are_recorded(
    tmp_path: Path, refusal: Callable[[Path, Path], str]
) -> None:
    blocks = {"down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D")}
    line = refusal(Kind(unet=blocks).save(tmp_path), tmp_path)
    assert "down_blocks.1.attentions.0 uses added_kv_proj_dim" in line


@pytest.mark.parametrize(
    ("pipeline", "channels"),
    [
        ("StableDiffusionPipeline", 9),
        ("StableDiffusionPipeline", 8),
        ("StableDiffusionInpaintPipeline", 8),
        ("StableDiffusionInstructPix2PixPipeline", 4),
    ],
)
def test_a_unet_of_another_kind_of_pipeline_is_refused(
    pipeline: str, channels: int, tmp_path: Path, refusal: Callable[[Path, Path], str]
) -> None:
    folder = Kind(unet={"in_channels": channels}).save(tmp_path)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": pipeline}))
    line = refusal(folder, tmp_path)
    assert f"maps {channels} channels to 4; in a {pipeline} with 4 channels of latents" in line
