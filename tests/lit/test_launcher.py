"""When another process of a calibration dies, all of them end, with one line."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

import pytest

from lit import launcher
from lit.launcher import WatchingLauncher
from lit.stopping import end_all


def watched(programs: Sequence[str], output: Path, cleans_up: bool = False) -> int:
    """Exit status of a first process that starts others and only watches them.

    Args:
        programs: of the others, for a shell.
        output: file for what it says.
        cleans_up: whether it ends the others by itself meanwhile; it then ends with 0.
    """
    child = os.fork()
    if child == 0:
        sys.stderr = output.open("w")
        first = WatchingLauncher.__new__(WatchingLauncher)  # without Lightning's environment
        first.children = [Popen(["sh", "-c", program]) for program in programs]
        if cleans_up:
            pytest.MonkeyPatch().setattr("time.sleep", lambda _: end_all(first.children))
        first._watch()
        sys.stderr.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.05)


def test_a_process_that_died_ends_all_with_one_line(tmp_path: Path) -> None:
    """Also while the first one waits in a collective operation, where it sees no signals."""
    pid = tmp_path / "pid"
    waits = f"echo $$ > {pid}.new && mv {pid}.new {pid} && exec sleep 100"
    dies = f"while ! test -e {pid}; do sleep 0.01; done; kill -9 $$"
    assert watched([waits, dies], tmp_path / "said") == 2
    said = (tmp_path / "said").read_text()
    assert said.startswith("error: process 2 ended with status -9 (out of memory?): the same")
    assert said.count("\n") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_processes_that_finished_are_not_watched_any_more(tmp_path: Path) -> None:
    assert watched(["exit 0", "exit 0"], tmp_path / "said") == 0
    assert (tmp_path / "said").read_text() == ""


def test_a_first_process_that_noticed_ends_in_its_own_way(tmp_path: Path) -> None:
    assert watched(["exit 3"], tmp_path / "said", cleans_up=True) == 0
    assert (tmp_path / "said").read_text() == ""
