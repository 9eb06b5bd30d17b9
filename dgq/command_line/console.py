"""Console output of commands: one-line errors, progress of phases, no noise."""

import argparse
import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging as transformers_logging

from dgq.command_line.parser_messages import in_short
from dgq.errors import DGQError


def add_path(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names the quantized model of a subcommand."""
    parser.add_argument(
        "path",
        metavar="DIR",
        type=Path,
        help="a finished run, such as outputs/w4a8, the folder of a quantized model, or of a "
        "pipeline with one",
    )


def print_error(error: Exception) -> None:
    """Print on stderr, in one line, what was wrong."""
    print_marked("[bold red]error:[/]", in_short(str(error)))


def print_stop(text: str) -> None:
    """Print on stderr, in one line, why a command ended early and how to resume."""
    print_marked("[bold yellow]stopped[/]", text.removeprefix("stopped "))


def print_marked(mark: str, text: str) -> None:
    """Print one line on stderr, after a mark; if nobody reads it, the exit status remains."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    try:
        console.print(f"{mark} {escape(' '.join(printable(text).split()))}")
    except (BrokenPipeError, SystemExit):  # the latter is rich's
        discard_unread()


def discard_unread() -> None:
    """Discard what is in the buffers of streams that nobody reads, on which the exit would fail."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_line(text: str) -> None:
    """Print a line on stdout, unchanged."""
    Console(soft_wrap=True, highlight=False, emoji=False).print(escape(printable(text)))


def printable(text: str) -> str:
    """Text with everything escaped that terminals and UTF-8 files cannot represent."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Show on stderr what is being done, and how long it took."""
    console = Console(stderr=True, highlight=False, emoji=False)
    started = time.perf_counter()
    with console.status(escape(name)):
        yield
    console.print(f"{escape(name)}: {time.perf_counter() - started:.1f} s")


def check_arguments(args: Sequence[str], may_be_empty: Collection[str] = ()) -> None:
    """Raise DGQError for an argument with bytes that are not text, or an option without a value.

    An empty value is what an unset variable leaves in a script; as a path it would mean the working
    directory. To YAML, by which the parser reads values, one that begins with ``#`` is a comment,
    and the option would silently be as if it were not given.

    Args:
        args: of a command line.
        may_be_empty: options of which an empty value is one like any other.
    """
    for arg, following in zip(args, [*args, None][1:], strict=True):
        if printable(arg) != arg:
            raise DGQError(f"{printable(arg)} is not encoded in UTF-8: rename it")
        option, equals, value = arg.partition("=")
        given = value if equals else following
        if given is None or not option.startswith("--"):
            continue
        if given == "" and option not in may_be_empty:
            raise DGQError(f"{option} is empty: give a value, or leave it out")
        if given.lstrip().startswith("#"):
            raise DGQError(
                f"{option} {given:.60} would be read as a comment, for it begins with #: begin a "
                "path with ./, and a text otherwise"
            )


def replace_closed_streams() -> None:
    """Discard what a program without stdout or stderr prints, as after ``>&-`` or as a service."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def quieten_libraries() -> None:
    """Hide libraries' progress bars and hints that do not concern users of this project."""
    replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in Latin-1 has no arrows and bars
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("nncf", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
