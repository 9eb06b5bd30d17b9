"""A bar on a terminal, lines in a log."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from evaluation import progress
from evaluation.progress import LineProgress, make_progress


def test_a_terminal_has_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with make_progress(console) as bar:
        task = bar.add_task("full precision", total=4)
        bar.advance(task, 2)
    assert type(bar) is Progress
    assert "2/4" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    console = Console(file=io.StringIO(), width=100)
    with make_progress(console) as bar:
        assert isinstance(bar, LineProgress)
        task = bar.add_task("w4a8", total=40)
        for _ in range(12):
            bar.advance(task, 2)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("w4a8: ") and "/40" in line for line in lines)
    assert "/s" in lines[-1]
    assert "left" in lines[-1]
