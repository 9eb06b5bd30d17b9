"""The README's commands and its Python example are what the project offers."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

import dgq
import scenes
from data.calibration import CalibrationData
from evaluation.command_line import parse_settings
from lit.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SHELL = "".join(text for language, text in BLOCKS if language == "").replace("\\\n", " ")
PYTHON = "".join(text for language, text in BLOCKS if language == "python")


def commands(script: str) -> list[list[str]]:
    """Arguments of every call of a script in the README's shell blocks."""
    lines = re.findall(rf"^python {script} (.*)$", SHELL, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("arguments", commands("train.py"), ids=" ".join)
def test_every_calibration_parses(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--print_config"], CalibrationData)
    assert exit_.value.code == 0
    assert "class_path:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", commands("evaluate.py"), ids=" ".join)
def test_every_evaluation_parses(arguments: Sequence[str]) -> None:
    assert parse_settings(arguments)


def test_the_example_uses_names_that_exist() -> None:
    compile(PYTHON, "README.md", "exec")
    names = re.findall(r"dgq\.(\w+)", PYTHON)
    assert names
    assert all(hasattr(dgq, name) for name in names)
    prompt = re.search(r'prompt = "(.*)"', PYTHON)
    assert prompt is not None
    assert scenes.is_scene_caption(prompt[1])


def test_every_file_it_links_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert all((Path(__file__).parents[1] / link).exists() for link in links)
