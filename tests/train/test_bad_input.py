"""Bad input is one line, said before anything is written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file

from tests.calibration_runs import (
    command,
    contents,
    error_lines,
)
from tests.tiny_pipelines import LEARNING, ROOT, fit_arguments

BAD_INPUT: dict[str, tuple[list[str], str]] = {
    "0 bits": (["--model.recipe.weight_bits", "0"], r"n_bits .*0"),
    "3.5 bits": (["--model.recipe.weight_bits", "3.5"], r"weight_bits.*3\.5"),
    "17 bits": (["--model.recipe.activation_bits", "17"], r"n_bits .*17"),
    "word for bits": (["--model.recipe.activation_bits", "many"], r"activation_bits.*many"),
    "0 groups": (["--model.recipe", "DGQ", "--model.recipe.n_groups", "0"], "n_groups"),
    "unknown method": (["--model.recipe.range_method", "best"], "range_method"),
    "unknown option": (["--model.recipe.color", "red"], "color"),
    "unknown recipe": (["--model.recipe", "Magic"], "Magic is not a recipe.*Custom, DGQ.*Ours"),
    "what is not a recipe": (["--model.recipe", "os.system"], "os.system is not a recipe.*Ours"),
    "no such recipe": (["--model.recipe", "dgq.Our"], "dgq.Our is not a recipe.*Ours"),
    "help of no recipe": (["--model.recipe.help", "Magic"], "Magic is not a recipe.*Ours"),
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
    "empty checkpoint": (["--ckpt_path", ""], "--ckpt_path is empty"),
    "empty run": (["--run", ""], "--run is empty"),
    "captions named like a comment": (
        ["--data.captions", "#mine.txt"],
        r"--data.captions #mine.txt would be read as a comment.*\./",
    ),
    "run named like a comment": (["--run=#1"], "--run #1 would be read as a comment"),
    "empty cache": (["--data.cache="], "--data.cache is empty"),
    "idle folder": (["--model.waiting.folder", "elsewhere"], "goes with waiting.place disk"),
    "processes": (["--trainer.devices", "99999"], "99999 processes cannot share 1 micro-batches"),
    "uneven processes": (
        ["--trainer.devices", "3", "--data.micro_batch_size", "1"],
        "multiple of the 3 processes",
    ),
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
    monkeypatch.setattr("dgq.pipelines.hub.try_to_load_from_cache", lambda *_: None)
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
