"""Processes that measure one at a time."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.inference.turns import Turns


def state(pid: int) -> str:
    """One letter, as the kernel has it: T for stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def comes(pid: int, letter: str) -> bool:
    """Whether a process gets into a state within seconds."""
    for _ in range(100):
        if (state(pid) == "T") == (letter == "T"):
            return True
        time.sleep(0.05)
    return False


def test_others_are_stopped_while_one_measures_and_go_on_afterwards(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    turns.join()
    with subprocess.Popen([sys.executable, "-c", "input()"], process_group=0, stdin=-1) as other:
        turns.join(other.pid)
        with turns.alone():
            assert comes(other.pid, "T")
        assert comes(other.pid, "S")
        turns.leave(other.pid)
        with turns.alone():
            assert state(other.pid) != "T"
        turns.join(other.pid)
        turns.end()  # kills all but this one
        assert other.wait(10) < 0
    turns.leave()


def test_a_process_that_is_alone_anyway_stops_nobody() -> None:
    turns = Turns(None)
    turns.join()
    with turns.alone():
        pass
    turns.end()
    turns.leave()
