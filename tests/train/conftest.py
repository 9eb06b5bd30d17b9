"""A finished run to damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def run(finished_work: Path) -> Path:
    """A copy of the finished run beside its cache, removed after the test."""
    copy = finished_work / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(finished_work / "run", copy))
