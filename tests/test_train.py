"""The command line end to end: what a run leaves, how it is resumed, and what it refuses."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.calibration import CalibrationData
from dgq.calibration.unet_calls import UNetCalls
from dgq.math.packing import unpack_codes
from dgq.pipelines.loading import load_pipeline, load_unet
from dgq.storage.checkpoint import load_quantized_unet, read_manifest
from dgq.storage.fingerprint import network_sha256
from dgq.targets import NETWORK, find_blocks
from lit.calibration import Calibration
from lit.callbacks import RunFolder
from lit.cli import main
from tests.tiny_pipelines import LEARNING, fit_arguments, learning_options

ROOT = Path(__file__).parents[1]
RUN_FILES = [
    "config.yaml",
    "last.ckpt",
    "log.csv",
    "quantized/config.json",
    "quantized/diffusion_pytorch_model.safetensors",
]
SAME = ("log.csv", "quantized/diffusion_pytorch_model.safetensors", "quantized/config.json")


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def command(args: list[str]) -> int:
    """Exit code of the command line, run in this process."""
    try:
        return main(args, CalibrationData)
    except SystemExit as exit_:
        return int(exit_.code or 0)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_result(run: Path, expected: Path) -> None:
    found, wanted = contents(run), contents(expected)
    assert sorted(found) == sorted(wanted) == RUN_FILES
    for name in SAME:
        assert found[name] == wanted[name], name


def error_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said on stderr, less loading bars."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and "%|" not in line]


# What a run leaves


@pytest.mark.parametrize(
    ("fixture", "n_targets"),
    [("sd_folder", 78), pytest.param("sdxl_folder", 75, marks=pytest.mark.slow)],
)
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


def test_the_last_checkpoint_holds_no_full_precision_weights(finished_work: Path) -> None:
    state = torch.load(finished_work / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert any(name.endswith("weight_quantizer.codes") for name in state)
    assert not any(name.endswith(("conv1.weight", "learnable.logits")) for name in state)


def test_the_written_config_repeats_the_run_byte_for_byte(finished_work: Path) -> None:
    again = finished_work / "again"
    config = finished_work / "run" / "config.yaml"
    assert command(["fit", "--config", str(config), "--run", str(again)]) == 0
    assert_same_result(again, finished_work / "run")


@pytest.mark.slow
def test_learning_lowers_the_errors(micro_folder: Path, tmp_path: Path) -> None:
    learning = learning_options(25, 5)
    bits = ("--model.recipe.weight_bits", "3")
    assert command([*fit_arguments(micro_folder, tmp_path), *learning, *bits]) == 0
    log = rows(tmp_path / "run")
    ratios = [float(row["error"]) / float(row["error_nearest"]) for row in log]
    assert np.median(ratios) < 0.9
    assert sum(ratio < 1 for ratio in ratios) > 0.8 * len(ratios)


# Round to nearest


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


# MachineError and resumed


class MachineError(Exception):
    """Stands for a machine that fails."""


def fail_when(condition: Callable[..., bool], method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that fails before it does anything, once the condition holds."""

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if condition(self, *args):
            raise MachineError
        return method(self, *args, **kwargs)

    return wrapped


def in_the_midst_of_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = lambda self, _, batch_idx: self.current_epoch == 7 and batch_idx == 3  # noqa: E731
    step = fail_when(condition, Calibration.training_step)
    monkeypatch.setattr(Calibration, "training_step", step)


def in_the_midst_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = lambda self, _, i: self.target_name == NETWORK and i == 3  # noqa: E731
    step = fail_when(condition, Calibration.training_step)
    monkeypatch.setattr(Calibration, "training_step", step)


def between_log_and_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    write = RunFolder.on_train_epoch_end

    def write_and_fail(self: RunFolder, trainer: Any, module: Any) -> None:
        write(self, trainer, module)
        if trainer.current_epoch == 11:
            raise MachineError

    monkeypatch.setattr(RunFolder, "on_train_epoch_end", write_and_fail)


def before_the_model_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit.callbacks.save_quantized", fail_when(lambda *_: True, print))


@pytest.mark.parametrize(
    "interrupt",
    [
        in_the_midst_of_learning,
        in_the_midst_of_the_network,
        pytest.param(between_log_and_checkpoint, marks=pytest.mark.slow),
        pytest.param(before_the_model_is_written, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    interrupt: Callable[[pytest.MonkeyPatch], None],
    finished_work: Path,
    micro_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = interrupt.__name__
    arguments = [*fit_arguments(micro_folder, finished_work, name), *LEARNING]
    with monkeypatch.context() as patched:
        interrupt(patched)
        with pytest.raises(MachineError):
            main(arguments, CalibrationData)
    assert not (finished_work / name / "quantized" / "config.json").exists()
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert_same_result(finished_work / name, finished_work / "run")


KILLED = """
import os, signal, sys
from data.calibration import CalibrationData
from dgq.calibration.unet_calls import UNetCalls
from lit.calibration import Calibration
from lit.cli import main

step = Calibration.training_step

def killed_in_target_9(self, rows, batch_idx):
    if self.current_epoch == 9 and batch_idx == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, rows, batch_idx)

Calibration.training_step = killed_in_target_9
main(sys.argv[1:], CalibrationData)
"""


def test_a_killed_process_is_resumed_to_the_same_bytes(
    finished_work: Path, micro_folder: Path
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "killed"), *LEARNING]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=ROOT, env=environment, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    run = finished_work / "killed"
    assert len(rows(run)) == 9
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert_same_result(run, finished_work / "run")


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


@pytest.mark.parametrize("value", ["true", pytest.param("9", marks=pytest.mark.slow)])
def test_a_trial_runs_with_learned_ranges_and_keeps_nothing(
    value: str, finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / f"trial-{value}"))
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    trial = ("--trainer.fast_dev_run", value, "--model.recipe.learning.activation_lr", "0.05")
    assert command([*arguments, *trial]) == 0
    assert contents(run) == before
    assert "nothing was kept" in capsys.readouterr().out


def test_samples_that_wait_on_disk_change_no_byte_and_leave_no_file(
    finished_work: Path, micro_folder: Path
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "from-disk"), *LEARNING]
    assert command([*arguments, "--model.waiting.place", "disk"]) == 0
    assert_same_result(finished_work / "from-disk", finished_work / "run")


LIMITED = """
import resource, sys
from data.calibration import CalibrationData
from dgq.calibration.unet_calls import UNetCalls
from lit.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:], CalibrationData))
"""


def test_a_run_that_cannot_write_says_so_and_goes_on_later(
    finished_work: Path, micro_folder: Path
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "limited"), *LEARNING]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    limited = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 2
    assert "File too large" in limited.stderr.splitlines()[-1]
    assert "--ckpt_path last" in limited.stderr.splitlines()[-1]
    run = finished_work / "limited"
    assert 0 < len(rows(run)) < 24
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert_same_result(run, finished_work / "run")


def test_a_finished_run_that_is_resumed_stays_as_it_is(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / "finished"))
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, "finished"), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    after = contents(run)
    assert all(after[name] == before[name] for name in SAME)


def without_its_model(run: Path) -> None:
    shutil.rmtree(run / "quantized")


def with_a_flipped_bit(run: Path) -> None:
    file = run / "quantized" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-7] ^= 4
    file.write_bytes(content)


def without_manifest_and_log(run: Path) -> None:
    (run / "quantized" / "config.json").unlink()
    (run / "log.csv").unlink()
    (run / "config.yaml").unlink()


@pytest.mark.parametrize("lose", [without_its_model, with_a_flipped_bit, without_manifest_and_log])
def test_a_finished_run_gets_back_what_it_lost(
    lose: Callable[[Path], None],
    finished_work: Path,
    micro_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / lose.__name__))
    lose(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert "written again from the checkpoint" in capsys.readouterr().out
    assert_same_result(run, finished_work / "run")


def test_a_finished_model_without_its_checkpoint_is_not_written_over(
    finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_work / "run", finished_work / "no-ckpt"))
    (run / "last.ckpt").unlink()
    before = contents(run)
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 2
    assert command(arguments) == 2
    assert contents(run) == before
    assert all("--run DIR" in line for line in error_lines(capsys))


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


@pytest.mark.slow
def test_a_folder_with_an_odd_name_is_a_folder(finished_work: Path, micro_folder: Path) -> None:
    """Markup, patterns of a shell, and letters of no one's locale."""
    name = "[bold] :x: [a-z]* é"
    arguments = [*fit_arguments(micro_folder, finished_work, name), *LEARNING]
    disk = ("--model.waiting.place", "disk")
    assert command([*arguments, *disk, "--trainer.max_steps", "12"]) == 3
    assert command([*arguments, *disk, "--ckpt_path", "last"]) == 0
    assert_same_result(finished_work / name, finished_work / "run")


# Several processes


def in_two_processes(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, "train.py", *arguments, "--trainer.devices", "2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )


def test_two_processes_find_the_ranges_of_one_bit_for_bit(
    micro_folder: Path, tmp_path: Path
) -> None:
    nearest = learning_options(0, 0)
    more = (*nearest, "--data.micro_batch_size", "2")
    assert command([*fit_arguments(micro_folder, tmp_path, "one"), *more]) == 0
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    for name in ("quantized/diffusion_pytorch_model.safetensors", "quantized/config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_a_process_may_have_nothing_held_out(micro_folder: Path, tmp_path: Path) -> None:
    """One micro-batch of held-out pairs and two of others: the second process measures nothing."""
    nearest = learning_options(0, 0)
    more = (*nearest, "--data.micro_batch_size", "6", "--data.n_held_out", "4")
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    assert len(rows(tmp_path / "two")) == 24


@pytest.mark.slow
def test_two_processes_agree_on_the_network(micro_folder: Path, tmp_path: Path) -> None:
    """Of which only the first has held-out samples to decide by."""
    more = (*learning_options(3, 2), "--data.micro_batch_size", "6", "--data.n_held_out", "4")
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    network = rows(tmp_path / "two")[-1]
    assert network["target"] == NETWORK
    assert 0 < float(network["error"]) <= float(network["error_nearest"])
    assert load_quantized_unet(tmp_path / "two")


@pytest.mark.slow
def test_two_processes_learn_as_well_as_one(micro_folder: Path, tmp_path: Path) -> None:
    learning = learning_options(60, 20)
    more = (*learning, "--data.micro_batch_size", "2")
    assert command([*fit_arguments(micro_folder, tmp_path, "one"), *more]) == 0
    in_two_processes([*fit_arguments(micro_folder, tmp_path, "two"), *more])
    one, two = (
        sum(float(row["error"]) for row in rows(tmp_path / name)) for name in ("one", "two")
    )
    nearest = sum(float(row["error_nearest"]) for row in rows(tmp_path / "one"))
    assert max(one, two) < nearest
    assert abs(one - two) < 0.1 * nearest


# What is refused


@pytest.fixture
def run(finished_work: Path) -> Path:
    """A copy of the finished run beside its cache, removed after the test."""
    copy = finished_work / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(finished_work / "run", copy))


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


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*fit_arguments(micro_folder, finished_work, "early"), *LEARNING]
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    assert "has no checkpoint yet: starting from the beginning" in capsys.readouterr().out
    assert_same_result(finished_work / "early", finished_work / "run")


@pytest.mark.parametrize("ckpt", ["", "no/such/file.ckpt"])
def test_resuming_from_a_file_that_is_none_is_refused(
    ckpt: str, micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([*fit_arguments(micro_folder, tmp_path), "--ckpt_path", ckpt]) == 2
    assert list(contents(tmp_path)) == ["captions.txt"]
    (line,) = error_lines(capsys)
    assert "does not exist" in line


def test_an_existing_run_is_not_overwritten(
    run: Path, finished_work: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert command([*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]) == 2
    assert contents(run) == before
    (line,) = error_lines(capsys)
    assert "already holds a calibration" in line
    assert "--ckpt_path last" in line


BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "0 bits": (["--model.recipe.weight_bits", "0"], r"n_bits .*0"),
    "3.5 bits": (["--model.recipe.weight_bits", "3.5"], r"weight_bits.*3\.5"),
    "17 bits": (["--model.recipe.activation_bits", "17"], r"n_bits .*17"),
    "word for bits": (["--model.recipe.activation_bits", "many"], r"activation_bits.*many"),
    "0 groups": (["--model.recipe", "DGQ", "--model.recipe.n_groups", "0"], "n_groups"),
    "unknown method": (["--model.recipe.range_method", "best"], "range_method"),
    "unknown option": (["--model.recipe.color", "red"], "color"),
    "unknown recipe": (["--model.recipe", "Magic"], "Magic"),
    "unknown config": (["--config", "w5a5.yaml"], r"w5a5\.yaml.*w4a8"),
    "config that looks like markup": (["--config", "[/red]"], r"\[/red\]"),
    "keep without a layer": (["--model.recipe.keep", "[nothing]"], "nothing"),
    "no prompts": (["--data.n_prompts", "0"], "n_prompts"),
    "too few captions": (["--data.n_prompts", "6"], "holds 9 distinct captions"),
    "no samples": (["--data.n_samples", "0"], "n_samples"),
    "no captions": (["--data.captions", "no/such/file.json"], r"no/such/file\.json"),
    "no steps": (["--data.generation.num_inference_steps", "0"], "num_inference_steps"),
    "height": (["--data.generation.height", "13", "--data.generation.width", "16"], "height"),
    "samples that PNDM cannot serve": (["--data.n_samples", "2"], r"must be 3 .*got 2"),
    "more steps than there are": (
        ["--data.generation.num_inference_steps", "5000"],
        "cannot make|fewer than",
    ),
    "seed beyond 64 bits": (["--data.seed", str(2**64)], "data.seed must be 0 to"),
    "negative seed": (["--data.seed", "-1"], "data.seed must be 0 to"),
    "guidance": (["--data.generation.guidance_scale", ".nan"], "guidance_scale must be finite"),
    "cache": (["--data.cache", "/proc/nowhere"], "--data.cache /proc/nowhere cannot be written"),
    "run": (["--run", "/proc/nowhere"], "/proc/nowhere cannot be written"),
    "long run": (["--run", "x" * 300], "cannot be written"),
    "waiting folder": (
        ["--model.waiting.place", "disk", "--model.waiting.folder", "/proc/nowhere"],
        "--model.waiting.folder /proc/nowhere cannot be written",
    ),
    "no text": (["--run", os.fsdecode(b"run\xff")], "not encoded in UTF-8"),
    "empty checkpoint": (["--ckpt_path", ""], "--ckpt_path '' does not exist"),
    "strategy": (
        ["--trainer.devices", "2", "--trainer.strategy", "fsdp"],
        "--trainer.strategy fsdp",
    ),
    "waiting": (["--model.waiting.place", "attic"], "waiting.place.*device.*attic"),
    "negative iterations": (["--model.recipe.learning.iterations", "-1"], "iterations"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    name: str, micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, message = BAD_INPUT[name]
    assert command([*fit_arguments(micro_folder, tmp_path), *LEARNING, *more]) == 2
    assert list(contents(tmp_path)) == ["captions.txt"]
    lines = error_lines(capsys)
    assert len(lines) <= 3
    assert re.search(message, " ".join(lines))


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.txt", ""), ("other.json", '{"a": 1}'), ("empty.json", '{"annotations": []}')],
)
def test_files_without_captions_are_refused(
    name: str,
    content: str,
    micro_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / name
    file.write_text(content)
    arguments = fit_arguments(micro_folder, tmp_path)
    assert command([*arguments, "--data.captions", str(file)]) == 2
    assert sorted(contents(tmp_path)) == sorted(["captions.txt", name])
    (line,) = error_lines(capsys)
    assert str(file) in line


def test_a_folder_that_is_no_pipeline_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(fit_arguments(tmp_path, tmp_path)) == 2
    assert list(contents(tmp_path)) == ["captions.txt"]
    (line,) = error_lines(capsys)
    assert "is not a pipeline" in line


def test_without_the_hub_it_says_what_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("dgq.pipelines.loading.try_to_load_from_cache", lambda *_: None)
    arguments = ["fit", "--config", "w4a8.yaml", "--config", "sd14.yaml"]
    assert command([*arguments, "--run", str(tmp_path / "run")]) == 2
    assert not list(tmp_path.iterdir())
    (line,) = error_lines(capsys)
    assert "hf download CompVis/stable-diffusion-v1-4 --local-dir" in line
    assert "--pipeline models/stable-diffusion-v1-4" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", ["conv_in", "mid_block.resnets.0.conv1", "conv_out"])
def test_weights_that_are_not_finite_are_refused(
    layer: str,
    value: float,
    micro_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(micro_folder, tmp_path / "pipeline"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state[f"{layer}.weight"][0, 0] = value
    save_file(state, file, {"format": "pt"})
    work = tmp_path / "work"
    work.mkdir()
    assert command([*fit_arguments(folder, work), *LEARNING]) == 2
    assert not (work / "run" / "quantized").exists()
    (line,) = error_lines(capsys)
    assert "nan" in line.lower() or "finite" in line


# What it explains


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fit", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option, explanation in {
        "--model.recipe.help": "options of one",
        "--data.captions": "COCO's JSON",
        "--data.generation.guidance_scale": "classifier-free guidance",
        "--run": "Folder that the run writes into",
        "--pipeline": "in the original layout, or hub id",
    }.items():
        assert option in text
        assert explanation in text


def test_help_of_a_recipe_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fit", "--model.recipe.help", "DGQ"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for option, explanation in {
        "--model.recipe.weight_bits": "2 to 8, or 16 for floating point",
        "--model.recipe.n_groups": "1 is per-tensor",
        "--model.recipe.keep_start_token": "``<start>`` token",
        "--model.recipe.learning.penalty": "weight of the term that drives each rounding",
    }.items():
        assert option in text
        assert explanation in text


def test_print_config_prints_every_setting_and_runs_nothing(
    tmp_path: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = fit_arguments(micro_folder, tmp_path, "run", "--config", "w4a6.yaml")
    assert command([*arguments, "--print_config"]) == 0
    assert list(contents(tmp_path)) == ["captions.txt"]
    text = capsys.readouterr().out
    assert "activation_bits: 6" in text
    assert "rounding_lr:" in text
    assert f"pipeline: {micro_folder}" in text


def test_the_script_passes_its_exit_code_on_and_says_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "fit", "--config", "nothing.yaml"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        done.stderr.splitlines()[-1]
    ]


def test_a_resumed_run_keeps_the_bits_that_were_chosen(
    micro_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice stands in the checkpoint, so that nothing is measured again."""
    arguments = [*fit_arguments(micro_folder, tmp_path), *LEARNING]
    with monkeypatch.context() as patched:
        in_the_midst_of_learning(patched)
        with pytest.raises(MachineError):
            main(arguments, CalibrationData)
    monkeypatch.setattr("dgq.recipes.mixed.measure_sensitivity", None)
    assert command([*arguments, "--ckpt_path", "last"]) == 0
    layers = read_manifest(tmp_path / "run").quantization.layers
    assert len({own.weights.n_bits for own in layers.values() if own.weights}) > 2
