"""Whatever cannot work is said in one line before anything is drawn, and replaces nothing."""

import io
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dgq.errors import DGQError
from evaluation import command_line
from evaluation.command_line import main
from evaluation.report.output import check_output
from evaluation.settings import EvaluationSettings

Main = Callable[..., int]


@pytest.fixture
def evaluate(pipeline_folder: Path, clip_folder: Path, tmp_path: Path) -> Main:
    """The command line on a small pipeline, everything into a folder of its own."""

    def call(*options: str) -> int:
        (tmp_path / "prompts.txt").write_text("a dog\na cat\n")
        base = (
            f"--pipeline {pipeline_folder} --clip {clip_folder} --prompts {tmp_path}/prompts.txt "
            f"--num-inference-steps 2 --guidance-scale 3 --latency-calls 1 "
            f"--images {tmp_path}/images --output {tmp_path}/out"
        )
        return main([*base.split(), *options])

    return call


EARLY = {
    "height": ("--height 13 --width 16", "divisible by 8"),
    "too large": ("--height 80000000 --width 80000000", "cannot draw with these settings"),
    "steps": ("--num-inference-steps 5000", "cannot draw with these settings"),
    "far too many steps": ("--num-inference-steps 100000", "at most 10000"),
    "seed": ("--seeds 18446744073709551616", "--seeds must be less than 4294967296"),
    "large seed": ("--seeds 4294967296", "--seeds must be less than 4294967296"),
    "output": ("--output /proc/nowhere/out", "--output /proc/nowhere/out cannot be written"),
    "empty output": ("--output=", "--output is empty: give a value, or leave it out"),
    "empty images": ("--images=", "--images is empty"),
    "models one by one": ("--ckpt a --ckpt b", "--ckpt is given twice: give all values after one"),
    "seeds one by one": ("--seeds 0 --seeds=1", "--seeds is given twice"),
    "metrics one by one": ("--metrics=fid --metrics kid", "--metrics is given twice"),
    "images": ("--images /proc/nowhere/images", "--images /proc/nowhere/images cannot be"),
    "long name": (f"--output {'x' * 300}", "File name too long"),
    "long checkpoint": (f"--ckpt {'x' * 300}", "File name too long"),
}


@pytest.mark.parametrize("name", EARLY)
def test_what_cannot_work_is_one_line_before_anything_is_written(
    name: str,
    evaluate: Main,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options, message = EARLY[name]
    monkeypatch.chdir(tmp_path)
    assert evaluate(*options.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_arguments_that_are_no_text_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", os.fsdecode(b"out\xff")]) == 2
    assert "not encoded in UTF-8" in capsys.readouterr().err


def test_a_protocol_nested_without_end_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text("seeds: " + "[" * 10_000)
    assert main(["--protocol", str(tmp_path / "p.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("left", ["grid.png", "report.html"])
def test_files_of_others_are_not_replaced(left: str, tmp_path: Path) -> None:
    (tmp_path / left).write_text("mine")
    with pytest.raises(DGQError, match="holds results of another evaluation"):
        check_output(tmp_path, "name", overwrite=False)
    check_output(tmp_path, "name", overwrite=True)


def test_a_second_evaluation_with_other_settings_replaces_nothing(
    evaluate: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Odd names, and a terminal that has only Latin letters, are no reason to fail either."""
    out = tmp_path / "[" / "] :smile:"
    assert evaluate("--output", str(out)) == 0
    assert f"in {out}" in capsys.readouterr().out.replace("\n", "")
    before = {p: p.read_bytes() for p in out.iterdir()}
    for other in ("--latency-calls=2", "--batch-size=1", "--guidance-scale=2", "--sqnr-prompts=3"):
        if other != "--sqnr-prompts=3":  # of no use without a quantized model
            assert evaluate("--output", str(out), other) == 2
        assert {p: p.read_bytes() for p in out.iterdir()} == before
    (out / "metrics.json").write_text("[" * 10**6)
    assert evaluate("--output", str(out)) == 2
    assert "another evaluation" in capsys.readouterr().err
    assert evaluate("--output", str(out), "--overwrite") == 0
    assert json.loads((out / "metrics.json").read_text())["protocol"]["batch_size"] == 2


def test_a_table_for_a_terminal_in_latin_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from dgq.command_line.console import quieten_libraries

    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", stream)
    quieten_libraries()
    Console(file=stream).print("SQNR ↑ 3 ± 1 ━━")
    stream.flush()
    assert b"SQNR ? 3" in stream.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(command_line, "evaluate", stopped)
    assert main([]) == 128 + number
    assert "the same command resumes from here" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_next_call_goes_on(
    evaluate: Main,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors import SafetensorError

    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("evaluation.images.store.save_image", full)
        assert evaluate() == 2
    error = capsys.readouterr().err
    assert "No space left" in error
    assert "it resumes" in error
    assert evaluate() == 0


def test_relative_pipelines_are_found_from_another_folder(
    ckpt: Path, pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a calibration notes means the same from everywhere."""
    from lit.calibration import Calibration

    shutil.copytree(pipeline_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    noted = Calibration("model").pipeline
    monkeypatch.chdir("/")
    assert noted == str(tmp_path / "model")
    assert EvaluationSettings(pipeline=noted).pipeline == noted
