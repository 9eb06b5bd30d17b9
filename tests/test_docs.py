"""The documentation names every public name, and no file that is not there."""

import re
from pathlib import Path

import pytest

import dgq
import dgq.ops
import dgq.targets

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ROOMS = "dgq|lit|data|evaluation|scenes|benchmarks|tests|configs|assets|docs"


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_it_names_exists(page: Path) -> None:
    named = re.findall(rf"`((?:{ROOMS})/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
