"""Signals and limits stop a run in one line, with a status, and it resumes bit-identically."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rich

from data.calibration import CalibrationData
from dgq.calibration.calibrator import Calibrator
from dgq.command_line.stopping import SIGNALS, Stopped, Stopper, stopping_on_signals
from lit.calibration import Calibration
from lit.cli import main
from tests.calibration_runs import rows
from tests.tiny_pipelines import LEARNING, ROOT, fit_arguments

pytestmark = pytest.mark.usefixtures("heard")
RESULTS = ("log.csv", "quantized/diffusion_pytorch_model.safetensors", "quantized/config.json")


def assert_same(run: Path, expected: Path) -> None:
    for name in RESULTS:
        assert (run / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(run.rglob(".*"))


def sent_in(method: str, number: int, epoch: int) -> Callable[[pytest.MonkeyPatch], None]:
    """A signal that arrives in the midst of a method, at some target."""
    owner: Any = Calibration if hasattr(Calibration, method) else Calibrator
    original = getattr(owner, method)

    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = self.current_epoch if owner is Calibration else len(self.records) - 1
        if current == epoch:
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    return lambda monkeypatch: monkeypatch.setattr(owner, method, patched)


HOW_TO_RESUME = "the same command with --ckpt_path last resumes after the last finished target"


def test_a_run_whose_output_nobody_reads_any_more_says_so(
    micro_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As after ``| head``: stopped by SIGPIPE, rather than by status 1 without a word."""
    monkeypatch.setattr(rich.get_console(), "quiet", False)  # rich's console falls silent for good
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        arguments = [*fit_arguments(micro_folder, tmp_path), *LEARNING]
        assert main(arguments, CalibrationData) == 128 + signal.SIGPIPE
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == f"stopped by SIGPIPE, nobody reads the output: {HOW_TO_RESUME}"


EVENTS = [
    (signal.SIGUSR1, "on_save_checkpoint", 2),
    (signal.SIGINT, "propagate", 3),
    (signal.SIGTERM, "training_step", 5),
    (signal.SIGHUP, "finish", 24),
]
LIMITS = [("--trainer.max_time", "00:00:00:00"), ("--trainer.max_steps", "13")]


def test_signals_and_limits_end_a_run_with_one_line_and_it_resumes_bit_identically(
    finished_work: Path,
    micro_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of them end the same run, one after the other."""
    run = finished_work / "stopped"
    arguments = [*fit_arguments(micro_folder, finished_work, run.name), *LEARNING]
    resume = [*arguments, "--ckpt_path", "last"]
    before = [signal.getsignal(each) for each in SIGNALS]
    for limit in LIMITS:
        assert main([*resume, *limit], CalibrationData) == 3
        assert f"stopped by {limit[0]}" in capsys.readouterr().err
    # What is half learned is not hardened: 13 steps are two targets and three of the next.
    assert len(rows(run)) == 2
    for number, method, epoch in EVENTS:
        with monkeypatch.context() as patched:
            sent_in(method, number, epoch)(patched)
            assert main(resume, CalibrationData) == 128 + number
        lines = [line for line in capsys.readouterr().err.splitlines() if number.name in line]
        assert lines == [f"stopped by {number.name}: {HOW_TO_RESUME}"]
        assert [signal.getsignal(each) for each in SIGNALS] == before
        assert not (run / "quantized").exists()
    assert main(resume, CalibrationData) == 0
    assert_same(run, finished_work / "run")


def test_a_trial_that_is_stopped_does_not_promise_to_resume(
    micro_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = ("--trainer.fast_dev_run", "5", "--trainer.max_steps", "1")
    assert main([*fit_arguments(micro_folder, tmp_path), *trial], CalibrationData) == 3
    assert "stopped by --trainer.max_steps 1: nothing was kept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Noisy:
    """Something whose end swallows an exception, as Python does."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_stops_at_the_next_step() -> None:
    with stopping_on_signals() as stopper:
        del (it := [Noisy()])[0]
        assert not it
        with pytest.raises(Stopped, match="SIGTERM"):
            stopper.check()


def test_what_is_ignored_stays_ignored_and_a_second_signal_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_on_signals() as stopper:
            os.kill(os.getpid(), signal.SIGHUP)
            stopper.check()
            with pytest.raises(Stopped) as stopped:
                os.kill(os.getpid(), signal.SIGINT)
            assert stopped.value.status == 130
            os.kill(os.getpid(), signal.SIGTERM)  # while everything is cleaned up
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stopper_that_nothing_reached_lets_go_on() -> None:
    Stopper().check()


STOPPED_IN_THE_MIDST = """
import os, signal, sys
from data.calibration import CalibrationData
from lit.calibration import Calibration
from lit.cli import main
from lit.stopping import is_first_process

step = Calibration.training_step

def stopped(self, rows, batch_idx):
    if self.current_epoch == 4 and batch_idx == 1 and is_first_process():
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, rows, batch_idx)

Calibration.training_step = stopped
sys.exit(main(sys.argv[1:], CalibrationData))
"""


@pytest.mark.slow
def test_a_signal_ends_both_of_two_processes_and_they_resume_bit_identically(
    micro_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED_IN_THE_MIDST)

    def fit(program: str, run: str, *more: str) -> "subprocess.CompletedProcess[str]":
        arguments = [*fit_arguments(micro_folder, tmp_path, run), *LEARNING, *more]
        return subprocess.run(
            [sys.executable, program, *arguments, "--data.micro_batch_size=2"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    two = ("--trainer.devices", "2")
    assert fit("train.py", "whole", *two).returncode == 0
    stopped = fit(str(script), "cut", *two)
    assert stopped.returncode == 143
    assert stopped.stderr.count("stopped by SIGTERM") == 1
    assert "Traceback" not in stopped.stderr
    resumed = fit("train.py", "cut", "--ckpt_path", "last")
    assert resumed.returncode == 2  # one process would learn something else
    assert "processes: 2 then, 1 now" in resumed.stderr
    assert fit("train.py", "cut", *two, "--ckpt_path", "last").returncode == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")
