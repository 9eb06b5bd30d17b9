"""How a command ends: its exit status, and one line about anything other than success."""

import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable

from safetensors import SafetensorError

from dgq.command_line.console import (
    discard_unread,
    print_error,
    print_stop,
    quieten_libraries,
)
from dgq.command_line.stopping import Stopped, stopping_on_signals
from dgq.errors import DGQError
from dgq.out_of_memory import in_words, is_out_of_memory

BROKEN_PIPE = 128 + 13
"""Status for SIGPIPE, which not every system has."""


def exit_code(
    work: Callable[[], int | None],
    after_stop: str = "what was finished is kept",
    after_failure: str = "fix that, then repeat the command",
) -> int:
    """Run a command, which signals stop, and return its exit code; arguments as for ``ended``."""

    def listening() -> int | None:
        with stopping_on_signals():
            code = work()
            sys.stdout.flush()
            return code

    quieten_libraries()
    return ended(listening, after_stop, after_failure)


def ended(
    work: Callable[[], int | None],
    after_stop: str,
    after_failure: str,
    to_take_less: str = "free some, or make batches or images smaller",
) -> int:
    """Run a command and return its exit code.

    Args:
        work: the command; the exit code that it returns, if any, is passed on.
        after_stop: what remains after a signal, in words.
        after_failure: what to do if a file cannot be read or written.
        to_take_less: what to do if memory runs out.

    Returns:
        0; 2 after one line about bad input; 128 plus the signal's number if one ended it, also
            SIGPIPE's if nobody reads the output any more.
    """
    try:
        return work() or 0
    except (BrokenPipeError, SystemExit) as error:
        if not is_unread(error):
            raise
        return end_unread()
    except Exception as error:
        print_error(expected(error, after_failure, to_take_less))
        return 2
    except Stopped as stop:
        if not stop.said:
            print_stop(f"{stop.reason}: {after_stop}")
        return stop.status
    except KeyboardInterrupt:
        print_stop(f"interrupted: {after_stop}")
        return 128 + signal.SIGINT


def expected(error: Exception, after_failure: str, to_take_less: str) -> Exception:
    """An exception that a user can do something about, in one line.

    Args:
        error: what ended a command.
        after_failure: what to do if a file cannot be read or written.
        to_take_less: what to do if memory runs out.

    Raises:
        Exception: ``error`` itself, if it is a mistake of the program.
    """
    if isinstance(error, DGQError | ArgumentError):
        return error
    if isinstance(error, OSError | SafetensorError):
        return DGQError(f"{error}: {after_failure}")
    if isinstance(error, RecursionError):
        return DGQError("a file of settings is nested too deeply: correct it")
    if is_out_of_memory(error):
        return DGQError(f"{in_words(error)}: {to_take_less}")
    raise error


def is_unread(error: BaseException) -> bool:
    """Whether a command ended because nobody reads its output any more, as after ``| head``.

    rich turns the BrokenPipeError of a console into a SystemExit.
    """
    broken = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(broken, BrokenPipeError)


def end_unread() -> int:
    """Discard what is still in buffers that nobody reads; returns the exit code."""
    discard_unread()
    return BROKEN_PIPE
