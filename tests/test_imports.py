"""Packages import in the directions of docs/explanation/architecture.md."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_pipelines import ROOT

MAY_IMPORT = {
    "dgq": {"dgq"},
    "data": {"data", "dgq"},
    "lit": {"lit", "dgq"},
    "evaluation": {"evaluation", "dgq", "data"},
    "scenes": {"scenes"},
}
EXCEPTIONS = {"data/embedded.py": {"scenes"}, "scenes/studies": {"dgq", "evaluation"}}
"""Further imports of a file, or of all files in a folder."""

BOTH_WAYS = {
    ("adapters", "unet"),
    ("hub", "pipelines"),
    ("hub", "storage"),
    ("quantizers", "unet"),
    ("storage", "unet"),
}
"""Folders of ``dgq`` that import each other."""


def imported(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    others = {*MAY_IMPORT, "benchmarks", "tests"}
    for file in (ROOT / package).rglob("*.py"):
        path = file.relative_to(ROOT)
        places = map(str, (path, *path.parents))
        further = {name for place in places for name in EXCEPTIONS.get(place, ())}
        found = {name.partition(".")[0] for name in imported(file)} & others
        assert found <= MAY_IMPORT[package] | further, path


def test_folders_of_dgq_import_in_one_direction() -> None:
    folders = {path.name for path in (ROOT / "dgq").iterdir() if path.is_dir()}
    imports: dict[str, set[str]] = defaultdict(set)
    for file in (ROOT / "dgq").glob("*/**/*.py"):
        own = file.relative_to(ROOT / "dgq").parts[0]
        names = (name.split(".") for name in imported(file) if name.startswith("dgq."))
        imports[own] |= {parts[1] for parts in names} & folders - {own}
    both = {(a, b) for a in imports for b in imports[a] if a < b and a in imports[b]}
    assert both == BOTH_WAYS
