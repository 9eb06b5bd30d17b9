"""Documentation agrees with the code: commands, public names, files."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import dgq
import dgq.ops
import dgq.targets
from data.calibration import CalibrationData
from dgq.command_line.main import parser
from evaluation.command_line import parse_settings
from evaluation.one_prompt.command_line import parse_settings as parse_picture
from lit.cli import main
from tests.pages import PAGES, ROOT, blocks, commands

of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
ROOMS = "dgq|lit|data|evaluation|scenes|benchmarks|tests|configs|assets|docs"


@pytest.mark.parametrize("arguments", commands("python train.py"), ids=" ".join)
def test_every_calibration_parses(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([arguments[0], "--print_config", *arguments[1:]], CalibrationData)
    assert exit_.value.code == 0
    assert re.search("class_path:|--model.recipe", capsys.readouterr().out)


@pytest.mark.parametrize("arguments", commands("python evaluate.py"), ids=" ".join)
def test_every_evaluation_parses(arguments: Sequence[str]) -> None:
    assert parse_settings(arguments)


@pytest.mark.parametrize("arguments", commands("python generate.py"), ids=" ".join)
def test_every_picture_parses(arguments: Sequence[str]) -> None:
    assert parse_picture(arguments)


@pytest.mark.parametrize("arguments", commands("python -m dgq"), ids=" ".join)
def test_every_subcommand_parses(arguments: Sequence[str]) -> None:
    assert parser().parse_args(arguments).command == arguments[0]


def documented() -> set[str]:
    """Names that the pages of the API take from docstrings."""
    pages = (ROOT / "docs/reference/api").glob("*.md")
    return {name for p in pages for name in re.findall(r"^::: ([\w.]+)$", p.read_text(), re.M)}


@pytest.mark.parametrize(
    "names",
    [
        {f"dgq.{name}" for name in dgq.__all__},
        {f"dgq.targets.{name}" for name in dgq.targets.__all__},
        {f"dgq.ops.reference.{name}" for name in dgq.ops.__all__},
    ],
    ids=["dgq", "targets", "ops"],
)
def test_every_public_name_is_in_the_reference(names: set[str]) -> None:
    assert names - documented() == set()


@of_pages
def test_python_compiles_and_uses_names_that_exist(page: Path) -> None:
    python = blocks(page, "python")
    compile(python, str(page), "exec")
    used = set(re.findall(r"\bdgq\.(\w+)", python))
    assert {name for name in used if not hasattr(dgq, name)} == set()


@of_pages
def test_every_file_it_names_exists(page: Path) -> None:
    named = re.findall(rf"`((?:{ROOMS})/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
