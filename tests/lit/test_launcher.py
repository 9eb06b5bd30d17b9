"""When another process of a calibration dies, all of them end, with one line."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from subprocess import Popen
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from dgq.errors import DGQError
from lit import launcher
from lit.launcher import WatchingLauncher, check_processes
from lit.stopping import end_all
from tests.children import calibrate_in_child
from tests.tiny_pipelines import fit_arguments


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


def test_processes_that_would_each_calibrate_into_one_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of ``torchrun --nproc_per_node 2`` without ``--trainer.devices 2``."""
    alone: Any = SimpleNamespace(world_size=1, strategy=None)
    check_processes(alone)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with pytest.raises(DGQError, match=r"--trainer\.devices is 1"):
        check_processes(alone)


def set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def test_a_job_with_another_number_of_tasks_is_one_line(micro_folder: Path, tmp_path: Path) -> None:
    """Lightning says so only when it starts them, by a traceback."""
    job = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "NODEID": "0", "PROCID": "0", "LOCALID": "0"}
    environment = {f"SLURM_{name}": value for name, value in (job | {"JOB_NAME": "w4a8"}).items()}
    two = ("--trainer.devices=2", "--data.micro_batch_size=2")
    arguments = [*fit_arguments(micro_folder, tmp_path), *two]
    ended = calibrate_in_child(arguments, partial(set_environment, environment), tmp_path)
    assert ended.status == 2, ended.said
    assert ended.said.startswith("error: --trainer: You set `devices=2`")
    assert ended.said.count("\n") == 1
    assert not (tmp_path / "run").exists()
