"""Processes that measure one at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.inference.turns import Turns

ROOT = Path(__file__).parents[2]


def is_stopped(pid: int) -> bool:
    """As the kernel has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def comes(pid: int, stopped: bool) -> bool:
    """Whether a process is stopped, or goes on, within seconds."""
    for _ in range(100):
        if is_stopped(pid) == stopped:
            return True
        time.sleep(0.05)
    return False


WAITS = [sys.executable, "-c", "input()"]
MEASURES = """
import os, pathlib, sys
from benchmarks.inference.turns import Turns
with Turns(pathlib.Path(sys.argv[1])).alone():
    print("alone", flush=True)
    os.kill(os.getpid(), 9)
"""


def test_others_are_stopped_while_one_measures_and_go_on_afterwards(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    with subprocess.Popen(WAITS, process_group=0, stdin=subprocess.PIPE) as other:
        turns.join(other.pid)
        with turns.alone():
            assert comes(other.pid, stopped=True)
        assert comes(other.pid, stopped=False)
        turns.leave(other.pid)
        with turns.alone():
            assert not is_stopped(other.pid)
        turns.join(other.pid)
        turns.end()  # kills all but this one
        assert other.wait(10) < 0


def test_all_go_on_where_the_one_that_measured_was_killed(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    with subprocess.Popen(WAITS, process_group=0, stdin=subprocess.PIPE) as other:
        turns.join(other.pid)
        killed = subprocess.run(
            [sys.executable, "-c", MEASURES, str(tmp_path / "turns")],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (killed.stdout, killed.returncode) == ("alone\n", -9)
        assert comes(other.pid, stopped=True)
        with turns.alone():
            turns.wake()  # does nothing while one measures
            assert is_stopped(other.pid)
        os.killpg(other.pid, signal.SIGSTOP)
        turns.wake()
        assert comes(other.pid, stopped=False)
        other.kill()


def test_a_process_that_is_alone_anyway_stops_nobody() -> None:
    turns = Turns(None)
    turns.join(os.getpid())
    with turns.alone():
        pass
    turns.wake()
    turns.end()
    turns.leave(os.getpid())
