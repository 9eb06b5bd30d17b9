"""Commands end with a status that says how, and one line on stderr."""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from rich.console import Console

from dgq.command_line import card, export, inspect, stopping
from dgq.command_line.ending import exit_code
from dgq.command_line.main import main
from dgq.command_line.stopping import stopping_on_signals
from dgq.errors import DGQError


def raising(error: BaseException) -> Callable[[], None]:
    """Work that ends in an error."""

    def work() -> None:
        raise error

    return work


SMALLER = "free some, or make batches or images smaller"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DGQError("no such model"), 2, "error: no such model\n"),
        (PermissionError("no"), 2, "error: no: fix that, then repeat the command\n"),
        (RecursionError(), 2, "error: a file of settings is nested too deeply: correct it\n"),
        (MemoryError(), 2, f"error: out of memory (MemoryError): {SMALLER}\n"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"),
            2,
            f"error: out of memory (CUDA out of memory): {SMALLER}\n",
        ),
        (
            RuntimeError("could not create a primitive"),
            2,
            f"error: out of memory (could not create a primitive): {SMALLER}\n",
        ),
        (KeyboardInterrupt(), 130, "stopped interrupted: what was finished is kept\n"),
    ],
)
def test_an_error_is_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(raising(error)) == code
    assert capsys.readouterr().err == said


def test_memory_that_runs_out_is_recognized_and_other_errors_are_not() -> None:
    def allocate() -> None:
        torch.empty(2**60, dtype=torch.uint8)

    assert exit_code(allocate) == 2
    for error in (RuntimeError("could not create a primitive descriptor"), TypeError("no")):
        with pytest.raises(type(error), match=str(error)):
            exit_code(raising(error))


def test_what_the_work_returns_is_passed_on() -> None:
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 1) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", [card, export, inspect])
def test_a_signal_is_one_line(
    module: object,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "run", lambda _: os.kill(os.getpid(), number))
    arguments = ["--to", "comfyui", "--out", "x"] if module is export else []
    inherited = signal.signal(number, signal.SIG_DFL)  # tests may run under nohup, which ignores it
    try:
        assert main([module.NAME, "x", *arguments]) == 128 + number  # type: ignore[attr-defined]
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)
    assert capsys.readouterr().err == f"stopped by {number.name}: nothing was written\n"


def test_a_command_runs_in_any_thread() -> None:
    """Signals are for the main one, which alone may handle them."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(exit_code, lambda: 1).result() == 1


def outlive(ready: int, is_first: bool) -> None:
    """What the first process of a command does, or another one, whose parent ends."""
    parent = os.getppid()
    try:
        with stopping_on_signals(is_first):
            if not is_first:
                os.kill(os.getpid(), signal.SIGTERM)  # which is the first one's to handle
            os.write(ready, b"!")
            while os.getppid() == parent:
                time.sleep(0.01)
            time.sleep(0.5)
            os.write(ready, b"?")
    finally:
        os._exit(0)


def be_the_parent(ready: int, is_first: bool) -> None:
    """What a shell does, or the first process."""
    if os.fork() == 0:
        outlive(ready, is_first)
    os.close(ready)
    signal.pause()


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("is_first", [True, False])
def test_other_processes_ignore_signals_and_end_with_the_first_which_outlives_its_shell(
    is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "PARENT_POLL_SECONDS", 0.01)
    reading, ready = os.pipe()
    parent = os.fork()
    if parent == 0:
        be_the_parent(ready, is_first)
    os.close(ready)
    with os.fdopen(reading, "rb", 0) as pipe:
        assert pipe.read(1) == b"!"
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert select.select([pipe], [], [], 20)[0]
        assert pipe.read() == (b"?" if is_first else b"")  # until nobody has the other end


def test_a_reader_that_has_seen_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert exit_code(lambda: print("a line")) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_a_console_is_no_error_either(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """rich raises SystemExit(1) instead, for a progress bar as for a table."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert exit_code(lambda: Console().print("a table")) == 128 + signal.SIGPIPE
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (raising(DGQError("no such model")), 2),
        (raising(KeyboardInterrupt()), 130),
        (lambda: Console(stderr=True).print("a bar"), 128 + signal.SIGPIPE),
        (lambda: print("a line", file=sys.stderr), 128 + signal.SIGPIPE),
    ],
)
def test_messages_that_nobody_reads_leave_the_status_as_it_is(
    work: Callable[[], None], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``2>&1 | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as output:
        monkeypatch.setattr(sys, "stderr", output)
        assert exit_code(work) == code


def test_other_exits_are_passed_on() -> None:
    with pytest.raises(SystemExit, match="0"):
        exit_code(raising(SystemExit(0)))


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_program_without_streams_ends_like_others(
    closed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``>&-``, in services and in windows without a terminal."""
    for name in closed:
        monkeypatch.setattr(sys, name, None)

    def work() -> None:
        sys.stdout.isatty()
        print("a line")
        print("a line", file=sys.stderr)

    assert exit_code(work) == 0
    assert exit_code(raising(DGQError("no such model"))) == 2
