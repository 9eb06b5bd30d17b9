"""What a run leaves: codes, scales, a log and a manifest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.calibration import N_HELD_OUT_PROMPTS
from dgq.captions.reading import read_captions
from dgq.math.packing import unpack_codes
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.storage.fingerprint import network_sha256
from dgq.storage.prompt_hashes import prompt_hashes
from dgq.targets import NETWORK, find_blocks
from tests.calibration_runs import (
    RUN_FILES,
    command,
    contents,
    rows,
)
from tests.tiny_pipelines import fit_arguments, learning_options


@pytest.mark.parametrize(
    ("fixture", "n_targets"),
    [("sd_folder", 78), ("sdxl_folder", 75)],
)
@pytest.mark.slow  # fewer targets of both: tests/test_models.py; all of them: tests/dgq/targets
def test_pipelines_of_both_structures_are_calibrated(
    fixture: str, n_targets: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    fast = [
        *("--model.recipe.range_method", "minmax", "--model.recipe.mixed", "false"),
        *("--model.recipe.network", "null"),
    ]
    learning = learning_options(1, 0)
    arguments = fit_arguments(folder, tmp_path, "run", "--config", "w4a8.yaml")
    assert command([*arguments, *fast, *learning]) == 0
    run = tmp_path / "run"
    assert list(contents(run)) == RUN_FILES
    assert len(rows(run)) == n_targets
    pipeline = load_pipeline(str(folder))
    pipeline.unet = load_quantized_unet(run)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "generator": generator, "output_type": "pt"}
    assert pipeline("a small red circle", guidance_scale=3.0, **options).images.isfinite().all()


def test_the_log_has_a_row_for_each_target_with_its_error_before_and_after(
    finished_work: Path, micro_folder: Path
) -> None:
    log = rows(finished_work / "run")
    targets = find_blocks(load_unet(str(micro_folder)), ("conv_in", "conv_out"))
    *blocks, network = [row["target"] for row in log]
    assert set(blocks) == set(targets)
    assert len(blocks) == len(targets)
    assert blocks[0] == "time_embedding.linear_1"
    assert blocks[-1].startswith("up_blocks.1.")
    assert network == NETWORK
    assert all(0 < float(row["error_nearest"]) < 1 and float(row["error"]) > 0 for row in log)


def test_the_manifest_tells_what_was_calibrated(finished_work: Path, micro_folder: Path) -> None:
    manifest = read_manifest(finished_work / "run")
    assert manifest.pipeline == str(micro_folder)
    assert manifest.generation.num_inference_steps == 2
    assert manifest.generation.guidance_scale == 3.0
    assert manifest.latent_size == (8, 8)
    assert len(manifest.timesteps) == 2
    assert manifest.unet_sha256 == network_sha256(load_unet(str(micro_folder)))
    captions = read_captions(finished_work / "captions.txt")
    assert len(manifest.prompt_hashes) == 3 + N_HELD_OUT_PROMPTS
    assert set(manifest.prompt_hashes) <= set(prompt_hashes(captions))


def test_the_last_checkpoint_holds_no_full_precision_weights(finished_work: Path) -> None:
    state = torch.load(finished_work / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.endswith("weight_quantizer.codes") for name in state)
    assert not any(name.endswith(("conv1.weight", "learnable.logits")) for name in state)


@pytest.mark.slow
def test_learning_lowers_the_errors(micro_folder: Path, tmp_path: Path) -> None:
    learning = learning_options(25, 5)
    bits = ("--model.recipe.weight_bits", "3")
    assert command([*fit_arguments(micro_folder, tmp_path), *learning, *bits]) == 0
    log = rows(tmp_path / "run")
    ratios = [float(row["error"]) / float(row["error_nearest"]) for row in log]
    assert np.median(ratios) < 0.9
    assert sum(ratio < 1 for ratio in ratios) > 0.8 * len(ratios)


def nearest_by_hand(weight: np.ndarray) -> np.ndarray:
    """Codes of 4-bit min-max rounding to nearest, channel by channel."""
    codes = []
    for row in weight.reshape(len(weight), -1):
        low, high = min(row.min(), np.float32(0)), max(row.max(), np.float32(0))
        scale = (high - low) / np.float32(15)
        codes.append(np.clip(np.rint(row / scale) + np.rint(-low / scale), 0, 15))
    return np.stack(codes)


def test_rtn_rounds_every_weight_to_nearest(micro_folder: Path, tmp_path: Path) -> None:
    assert command(fit_arguments(micro_folder, tmp_path, "run", "--config", "rtn_w4a8.yaml")) == 0
    run = tmp_path / "run"
    assert list(contents(run)) == RUN_FILES
    assert all(row["error"] == row["error_nearest"] for row in rows(run))
    state = load_file(run / "quantized" / "diffusion_pytorch_model.safetensors")
    weights = load_unet(str(micro_folder)).state_dict()
    names = [n.removesuffix(".codes") for n in state if n.endswith(".codes")]
    assert len(names) > 50
    for name in names:
        expected = nearest_by_hand(weights[f"{name}.weight"].numpy())
        found = unpack_codes(state[f"{name}.codes"], 4, expected.shape[1])
        np.testing.assert_array_equal(found.numpy(), expected)
    scales = [t for n, t in state.items() if n.endswith("_quantizer.scale")]
    assert len(scales) > 50
    assert all(t.shape == (1,) for t in scales)


@pytest.mark.parametrize(
    ("weights", "activations"), [(4, 16), (16, 8), (16, 16)], ids=["w4", "a8", "float"]
)
def test_weights_or_activations_alone(
    weights: int, activations: int, micro_folder: Path, tmp_path: Path
) -> None:
    bits = [
        *("--model.recipe.weight_bits", str(weights)),
        *("--model.recipe.activation_bits", str(activations)),
        *learning_options(1, 0),
    ]
    assert command([*fit_arguments(micro_folder, tmp_path), *bits]) == 0
    assert list(contents(tmp_path / "run")) == RUN_FILES
    load_quantized_unet(tmp_path / "run")
