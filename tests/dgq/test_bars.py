"""Progress bars of the library leave stdout to the program."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dgq import bars


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_is_on_stderr_and_what_the_program_prints_meanwhile_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen, file = Screen(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(bars, "_console", lambda: Console(stderr=True))
    for number in bars.track(range(2), "counting", show=True):
        print(number)
    assert file.getvalue() == "0\n1\n"
    assert "counting" in screen.getvalue()
    assert "100%" in screen.getvalue()


CLOSED = io.StringIO()
CLOSED.close()


@pytest.mark.parametrize("stdout", [None, CLOSED, SimpleNamespace(write=len)])
def test_a_program_without_a_usual_stdout_has_bars(
    stdout: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    assert list(bars.track("ab", "counting", show=True)) == ["a", "b"]
    assert "counting" in capsys.readouterr().err


def test_nothing_is_shown_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bars.track("ab", "counting", show=False)) == ["a", "b"]
    assert "".join(capsys.readouterr()) == ""
