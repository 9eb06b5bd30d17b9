"""A checkpoint is resumed with its own settings, or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dgq.calibration.unet_calls import UNetCalls
from tests.calibration_runs import (
    command,
    contents,
    error_lines,
)
from tests.tiny_pipelines import LEARNING, fit_arguments

CHANGES = {
    "samples": ("--data.n_samples", "3"),
    "micro-batches": ("--data.micro_batch_size", "2"),
    "kept layers": ("--model.recipe.keep", "[conv_in, conv_out, time_embedding.*]"),
    "precision": ("--trainer.precision", "bf16-mixed"),
    "waiting in 16 bits": ("--model.waiting.dtype", "float16"),
    "polish": ("--model.recipe.learning.polish_lr", "0.1"),
    "bits": ("--model.recipe.weight_bits", "8"),
    "groups": ("--model.recipe.group_size", "32"),
    "recipe": ("--model.recipe", "DGQ", *LEARNING),
    "rates": ("--model.recipe.learning.rounding_lr", "0.1"),
    "iterations": ("--model.recipe.learning.iterations", "4"),
    "batch": ("--data.batch_size", "3"),
    "prompts": ("--data.n_prompts", "2"),
    "seed": ("--data.seed", "1"),
    "steps": ("--data.generation.num_inference_steps", "3"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_resuming_with_other_settings_is_refused(
    name: str,
    run: Path,
    finished_work: Path,
    micro_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    assert command([*arguments, *CHANGES[name], "--ckpt_path", "last"]) == 2
    assert contents(run) == before
    (line,) = error_lines(capsys)
    assert "was made with other settings" in line
    assert "--run DIR" in line


@pytest.mark.slow
def test_mixed_precision_keeps_float32_scales_and_does_not_resume_as_float32(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*fit_arguments(micro_folder, tmp_path), *LEARNING]
    ranges = ("--model.recipe.learning.activation_lr", "0.05")
    assert command([*arguments, *ranges, "--trainer.precision", "bf16-mixed"]) == 0
    state = load_file(tmp_path / "run" / "quantized" / "diffusion_pytorch_model.safetensors")
    scales = [tensor for name, tensor in state.items() if name.endswith("scale")]
    assert all(scale.dtype == torch.float32 for scale in scales)
    capsys.readouterr()
    assert command([*arguments, *ranges, "--ckpt_path", "last"]) == 2
    assert "precision: bf16-mixed then, 32-true now" in error_lines(capsys)[-1]


def test_calls_recorded_anew_that_are_not_the_same_are_noticed(
    finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "other-calls"), *LEARNING]
    cache = ["--data.cache", str(finished_work / "cache2")]
    shutil.copytree(finished_work / "cache", finished_work / "cache2")
    assert command([*arguments, *cache, "--trainer.max_steps", "12"]) == 3
    (recording,) = (finished_work / "cache2").iterdir()
    calls = UNetCalls.load(recording)
    calls.latents[0, 0, 0, 0, 0] += 1e-6
    calls.save(recording)
    capsys.readouterr()
    assert command([*arguments, *cache, "--ckpt_path", "last"]) == 2
    assert "not those that the checkpoint was made with" in error_lines(capsys)[-1]


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])


def of_something_else(file: Path) -> None:
    torch.save({"state_dict": {}}, file)


def that_runs_code(file: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {file.parent}/pwned",)

    torch.save({"calibration": Payload()}, file)


@pytest.mark.parametrize(
    "damage", [truncated, of_something_else, that_runs_code, lambda file: file.write_text("")]
)
def test_a_damaged_last_checkpoint_is_refused_by_name(
    damage: Callable[[Path], None],
    run: Path,
    finished_work: Path,
    micro_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run / "last.ckpt")
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 2
    assert contents(run) == before
    (line,) = error_lines(capsys)
    assert str(run / "last.ckpt") in line


@pytest.mark.parametrize(
    ("ckpt", "message"),
    [("", "is empty"), (" ", "does not exist"), ("no/such/file.ckpt", "does not exist")],
)
def test_resuming_from_a_file_that_is_none_is_refused(
    ckpt: str, message: str, micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([*fit_arguments(micro_folder, tmp_path), "--ckpt_path", ckpt]) == 2
    assert list(contents(tmp_path)) == ["captions.txt"]
    (line,) = error_lines(capsys)
    assert message in line
