"""Ctrl-C while a script still imports its libraries, which takes seconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"
MODULES = {
    "train.py": "data/calibration.py",
    "evaluate.py": "evaluation/command_line.py",
    "generate.py": "evaluation/one_prompt/command_line.py",
    "explain.py": "evaluation/explanation/command_line.py",
}
"""What each script imports first."""

RUN = (
    "import runpy, signal, sys; sys.path[:0] = sys.argv[2:]; "
    "signal.signal(signal.SIGINT, {}); runpy.run_path(sys.argv[1], run_name='__main__')"
)


def interrupted(script: str, handler: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A script whose first import is interrupted."""
    module = folder / MODULES[script]
    module.parent.mkdir(parents=True, exist_ok=True)
    for package in module.relative_to(folder).parents[:-1]:
        (folder / package / "__init__.py").touch()
    module.write_text(INTERRUPTED)
    command = [sys.executable, "-c", RUN.format(handler), str(ROOT / script), str(folder)]
    return subprocess.run([*command, str(ROOT)], capture_output=True, text=True, env=os.environ)


@pytest.mark.parametrize("script", MODULES)
def test_an_interrupted_import_has_no_traceback(script: str, tmp_path: Path) -> None:
    done = interrupted(script, "signal.default_int_handler", tmp_path)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    assert interrupted("train.py", "signal.SIG_IGN", tmp_path).returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_another_process_of_several_ignores_all_signals_from_its_start(
    number: signal.Signals,
) -> None:
    """A terminal sends Ctrl-C to all of them; only the first one decides."""
    usual = "default_int_handler" if number == signal.SIGINT else "SIG_DFL"  # not nohup's
    program = (
        f"import os, signal, starting; signal.signal({int(number)}, signal.{usual}); "
        f"starting.end_quietly(); os.kill(os.getpid(), {int(number)}); raise SystemExit(7)"
    )
    for rank, status in (("1", 7), ("0", -number)):
        environment = os.environ | {"LOCAL_RANK": rank}
        command = [sys.executable, "-c", program]
        assert subprocess.run(command, cwd=ROOT, env=environment).returncode == status
