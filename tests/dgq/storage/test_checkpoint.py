"""Quantized models on disk: equal when loaded, refused when they do not belong together."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from dgq.errors import DGQError
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.settings import ActivationSettings, QuantizationSettings, ScoreSettings, WeightSettings
from dgq.storage.checkpoint import (
    GenerationSettings,
    Manifest,
    calibration_state,
    load_calibration_state_,
    load_quantized_unet,
    quantized_folder,
    read_manifest,
    save_quantized,
)
from dgq.storage.manifest import manifest_of
from dgq.storage.model_files import WEIGHTS_FILE, sealed
from dgq.storage.prompt_hashes import prompt_hashes
from dgq.unet.context import quantization
from dgq.unet.layers import quantized_layers
from dgq.unet.quantize import quantize_, start_observing_
from tests.forging import forge_
from tests.forging import quantization as described
from tests.quantized_models import Calibrated
from tests.tiny_pipelines import calibrate_, micro_unet, unet_call

FAST = WeightSettings(4, "minmax")
TIMESTEPS = (801.0, 401.0)


def save(
    unet: UNet2DConditionModel, folder: Path, settings: QuantizationSettings, pipeline: str = ""
) -> Path:
    """Calibrate a stock UNet, save it, and leave it calibrated."""
    config = dict(unet.config)
    calibrate_(unet, settings, TIMESTEPS)
    generation = GenerationSettings(2, 3.0, 16, 16)
    save_quantized(
        unet, folder, Manifest(pipeline, config, settings, generation, TIMESTEPS, (8, 8))
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_description_says_everything_once() -> None:
    config = {"in_channels": 4, "sample_size": 8}
    generation = GenerationSettings(2, 3.0, 16, 16)
    settings = QuantizationSettings(FAST)
    written = Manifest("", config, settings, generation, TIMESTEPS, (8, 8)).config()
    found = written.pop("quantization_config")
    assert written == config
    assert found.keys() == {
        *("quant_method", "format", "pipeline", "quantization", "generation", "timesteps"),
        *("latent_size", "unet_sha256", "prompt_hashes", "sha256"),
    }


def test_an_earlier_description_notes_no_prompts() -> None:
    manifest = Manifest("", {}, QuantizationSettings(FAST), GenerationSettings(), TIMESTEPS, (8, 8))
    noted = replace(manifest, prompt_hashes=prompt_hashes(["a dog"]))
    config = noted.config()
    assert manifest_of(config) == noted
    del config["quantization_config"]["prompt_hashes"]
    assert manifest_of(config) == manifest


def test_what_a_later_version_describes_is_for_that_version_to_read() -> None:
    manifest = Manifest("", {}, QuantizationSettings(FAST), GenerationSettings(), TIMESTEPS, (8, 8))
    config = manifest.config()
    config["quantization_config"]["news"] = 1
    with pytest.raises(DGQError, match=r"'news'.*a newer dgq may read it"):
        manifest_of(config)


SETTINGS = {
    "w4a8": QuantizationSettings(FAST),
    "w3a4": QuantizationSettings(WeightSettings(3, "minmax"), ActivationSettings(4, n_groups=2)),
    "w8a6 static": QuantizationSettings(
        WeightSettings(8, "minmax"),
        ActivationSettings(6, n_groups=1, per_step=False),
        ScoreSettings(6, "affine", "affine", keep_start_token=False),
    ),
    "w4 only": QuantizationSettings(FAST, ActivationSettings(16), ScoreSettings(16)),
    "a8 only": QuantizationSettings(WeightSettings(16), ActivationSettings(8), ScoreSettings(4)),
    "exponents": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=8, max_exponent=2),
        ActivationSettings(6, "exponents", max_exponent=4, qkv=False),
        ScoreSettings(16),
    ),
    "multiples": QuantizationSettings(
        WeightSettings(4, "minmax", symmetric=True, group_size=8, max_exponent=2),
        ActivationSettings(4, "multiples", max_exponent=6, qkv=False),
        ScoreSettings(16),
    ),
    "more kept": QuantizationSettings(FAST, keep=("conv_in", "conv_out", "*.proj_*")),
}


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_loaded_unet_equals_the_saved_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    unet = micro_unet()
    call = unet_call(unet, 2, 401.0, seed=9)
    save(unet, tmp_path, SETTINGS[name])
    loaded = load_quantized_unet(tmp_path, "float")
    assert torch.equal(loaded(**call)[0], unet(**call)[0])
    assert read_manifest(tmp_path).quantization == SETTINGS[name]


@torch.no_grad()
def test_the_structure_of_sdxl_is_saved_and_loaded(sdxl_folder: Path, tmp_path: Path) -> None:
    unet = load_unet(str(sdxl_folder))
    call = unet_call(unet, 1, 801.0)
    save(unet, tmp_path, SETTINGS["w4a8"])
    assert torch.equal(load_quantized_unet(tmp_path)(**call)[0], unet(**call)[0])


@torch.no_grad()
def test_images_of_a_pipeline_are_equal(micro_folder: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(str(micro_folder))
    save(pipeline.unet, tmp_path, SETTINGS["w4a8"], str(micro_folder))

    def image() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        options = {"num_inference_steps": 3, "generator": generator, "output_type": "pt"}
        return pipeline("a small red circle", **options).images

    before = image()
    pipeline.unet = load_quantized_unet(tmp_path)
    assert torch.equal(image(), before)
    assert not torch.equal(before, before.flip(-1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a W4A8 model."""
    run = tmp_path_factory.mktemp("run")
    save(micro_unet(), run / "quantized", SETTINGS["w4a8"])
    return run


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that model, to be damaged."""
    return Path(shutil.copytree(saved / "quantized", tmp_path / "copy"))


def test_the_manifest_comes_back(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert manifest.generation == GenerationSettings(2, 3.0, 16, 16)
    assert manifest.timesteps == TIMESTEPS
    assert manifest.latent_size == (8, 8)
    assert manifest.unet_config["block_out_channels"] in ([8, 16], (8, 16))


def test_the_run_folder_and_the_models_own_folder_are_the_same(saved: Path) -> None:
    assert quantized_folder(saved) == quantized_folder(saved / "quantized") == saved / "quantized"
    tensors = load_file(saved / "quantized" / WEIGHTS_FILE)
    described = json.loads((saved / "quantized" / "config.json").read_text())
    assert (
        sealed(described, tensors)["quantization_config"]["sha256"] == read_manifest(saved).sha256
    )


def test_weights_are_packed_and_the_full_precision_ones_absent(saved: Path) -> None:
    state = load_file(saved / "quantized" / WEIGHTS_FILE)
    codes = {n: t for n, t in state.items() if n.endswith(".codes")}
    layers = [m for m in micro_unet().modules() if type(m).__name__ in ("Linear", "Conv2d")]
    assert len(codes) == len(layers) - 2
    n_weights = sum(m.weight.numel() for m in layers)
    assert sum(t.numel() for t in codes.values()) < 0.52 * n_weights
    assert not any(n.endswith(("conv1.weight", "to_q.weight")) for n in state)
    assert "conv_in.weight" in state


def test_a_loaded_unet_says_that_it_has_no_full_precision_weights(saved: Path) -> None:
    unet = load_quantized_unet(saved)
    with (
        pytest.raises(DGQError, match="no full-precision weights"),
        quantization(unet, weights=False, activations=False),
    ):
        pass


def truncate(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-1000])


def flip_a_bit(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def swap(folder: Path) -> None:
    save(micro_unet(), folder.parent / "other", SETTINGS["w3a4"])
    shutil.copy(folder.parent / "other" / WEIGHTS_FILE, folder)


def empty_manifest(folder: Path) -> None:
    (folder / "config.json").write_text("")


def list_for_a_manifest(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


def truncate_manifest(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text()[:200])


def forged(**changes: object) -> Callable[[Path], None]:
    """Another description, with a seal that vouches for it."""
    return lambda folder: forge_(folder, described(**changes)) and None


def forged_unet(**changes: object) -> Callable[[Path], None]:
    return lambda folder: forge_(folder, lambda config: config.update(changes)) and None


def edit(folder: Path) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content["quantization_config"]["generation"]["guidance_scale"] += 1
    file.write_text(json.dumps(content))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated weights": (truncate, WEIGHTS_FILE),
    "one bit flipped": (flip_a_bit, WEIGHTS_FILE),
    "weights of another checkpoint": (swap, WEIGHTS_FILE),
    "no weights": (
        lambda f: (f / WEIGHTS_FILE).unlink(),
        WEIGHTS_FILE,
    ),
    "no manifest": (lambda f: (f / "config.json").unlink(), "copy"),
    "empty manifest": (empty_manifest, "config.json"),
    "truncated manifest": (truncate_manifest, "config.json"),
    "list for a manifest": (
        list_for_a_manifest,
        "no quantized model in it",
    ),
    "an edited manifest": (edit, "agree with the seal"),
    "another format": (forged(format="dgq-99"), "config.json"),
    "no settings": (forged(quantization=None), "config.json"),
    "unknown field": (forged(surprise=1), "config.json"),
    "no timesteps": (forged(timesteps=[]), "timesteps"),
    "timesteps of text": (forged(timesteps=["a"]), "timesteps"),
    "infinite timesteps": (forged(timesteps=[1e999]), "timesteps"),
    "a timestep beyond all numbers": (forged(timesteps=[10**400]), "expected numbers"),
    "latents of no size": (forged(latent_size=[0, 8]), "latent_size"),
    "pipeline of no text": (forged(pipeline=3), "pipeline"),
    "bits of 17": (
        forged(
            quantization={"weights": {"n_bits": 17}, "activations": {}, "scores": {}, "keep": []}
        ),
        "config.json",
    ),
    "damaged UNet config": (forged_unet(layers_per_block="x"), "config.json"),
    "another network": (forged_unet(_class_name="AutoencoderKL"), "AutoencoderKL"),
    "UNet of other width": (
        forged_unet(block_out_channels=[16, 32]),
        WEIGHTS_FILE,
    ),
    "UNet of other depth": (forged_unet(layers_per_block=2), WEIGHTS_FILE),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_does_not_belong_together_is_refused_by_name_and_left_alone(
    name: str, folder: Path
) -> None:
    damage, named = DAMAGE[name]
    damage(folder)
    before = contents(folder)
    with pytest.raises(DGQError, match=named):
        load_quantized_unet(folder)
    assert contents(folder) == before
    if name != "another network":  # who names the class, diffusers does not ask the file
        with pytest.raises((DGQError, OSError, ValueError, TypeError)):
            UNet2DConditionModel.from_pretrained(folder)


@pytest.mark.parametrize("missing", [True, False])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, missing: bool) -> None:
    path = tmp_path / "nothing" if missing else tmp_path
    with pytest.raises(DGQError, match="cannot be used as a checkpoint"):
        load_quantized_unet(path)


def test_saving_over_a_model_that_cannot_be_written_keeps_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    monkeypatch.setattr(
        "dgq.storage.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        save(micro_unet(), folder, SETTINGS["w3a4"])
    assert contents(folder) == before


@torch.no_grad()
def test_calibration_state_holds_finished_targets_and_ranges_only() -> None:
    unet = quantize_(micro_unet(), SETTINGS["w4a8"], TIMESTEPS, (8, 8))
    start_observing_(unet)
    assert calibration_state(unet) == {}
    layers = quantized_layers(unet.mid_block)
    for layer in layers.values():
        layer.start_learning_()
    assert calibration_state(unet) == {}
    for layer in layers.values():
        layer.harden_()
    with quantization(unet, weights=False, activations=False, observing=True):
        unet(**unet_call(unet, 1, 401.0))
    state = calibration_state(unet)
    assert {n.partition(".weight_quantizer")[0] for n in state if "weight_quantizer" in n} == {
        f"mid_block.{name}" for name in layers
    }
    twin = quantize_(micro_unet(), SETTINGS["w4a8"], TIMESTEPS, (8, 8))
    start_observing_(twin)
    load_calibration_state_(twin, state)
    again = calibration_state(twin)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@torch.no_grad()
@pytest.mark.parametrize("name", ["exponents", "multiples"])
def test_calibration_state_holds_exponents(name: str) -> None:
    unet = calibrate_(micro_unet(), SETTINGS[name], TIMESTEPS)
    state = calibration_state(unet)
    assert f"mid_block.resnets.0.conv1.input_quantizer.{name[:-1]}" in state
    assert "mid_block.resnets.0.conv1.weight_quantizer.exponent" in state
    twin = quantize_(micro_unet(), SETTINGS[name], TIMESTEPS, (8, 8))
    start_observing_(twin)
    load_calibration_state_(twin, state)
    call = unet_call(unet, 2, 401.0)
    assert torch.equal(twin(**call)[0], unet(**call)[0])


def test_calibration_state_of_another_model_is_refused() -> None:
    unet = quantize_(micro_unet(), SETTINGS["w4a8"], TIMESTEPS, (8, 8))
    with pytest.raises(DGQError, match="belongs to another model"):
        load_calibration_state_(unet, {"down_blocks.7.scale": torch.ones(1)})


@pytest.mark.parametrize("size", ["10GB", "20KB"], ids=["whole", "in shards"])
def test_a_variant_is_loaded_by_its_name(
    size: str, calibrated_as: Callable[[str], Calibrated], tmp_path: Path
) -> None:
    model = calibrated_as("multiples")
    unet: Any = load_quantized_unet(model.folder, "float", torch.float32)
    unet.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size=size)
    loaded = load_quantized_unet(tmp_path / "model", "float", torch.float32, variant="fp16")
    expected = unet.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in loaded.state_dict().items())
    for other in (None, "bf16"):
        with pytest.raises(DGQError, match="give variant='fp16'"):
            load_quantized_unet(tmp_path / "model", variant=other)
    with pytest.raises(DGQError, match="give no variant"):
        load_quantized_unet(model.folder, variant="fp16")
    with pytest.raises(DGQError, match="variant must be a word"):
        load_quantized_unet(model.folder, variant="../fp16")
