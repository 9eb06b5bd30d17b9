"""Runs of ``train.py fit`` in this process, and what they leave."""

import csv
import re
from pathlib import Path

import pytest

from data.calibration import CalibrationData
from lit.cli import main

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


BAR = re.compile(
    r"(recording UNet calls|measuring sensitivity|calibrating) .*[-\d]:[-\d]{2}:[-\d]{2}"
)


def error_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said on stderr, less progress bars."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if line.strip() and "%|" not in line and not BAR.match(line)]
