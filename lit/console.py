"""What both scripts show: one line for an error, and no noise from libraries."""

import io
import logging
import sys
import warnings
from collections.abc import Sequence

from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.markup import escape
from transformers.utils import logging as transformers_logging

from dgq.errors import DGQError

IRRELEVANT_WARNINGS = (
    "in eval mode at the start",
    "LeafSpec",
    "args parameter",
    "is not empty",
    "returned `None`",
)


def print_error(error: Exception) -> None:
    """Say on stderr, in one line, what was wrong."""
    _print_line("[bold red]error:[/]", str(error))


def print_stop(text: str) -> None:
    """Say on stderr, in one line, why it ended early and how to go on."""
    _print_line("[bold yellow]stopped[/]", text.removeprefix("stopped "))


def _print_line(kind: str, text: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    console.print(f"{kind} {escape(' '.join(printable(text).split()))}")


def printable(text: str) -> str:
    """Text with what no terminal and no file in UTF-8 can hold written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def check_arguments(args: Sequence[str]) -> None:
    """Raise DGQError for an argument with bytes that are no text."""
    for arg in args:
        if printable(arg) != arg:
            raise DGQError(f"{printable(arg)} is not encoded in UTF-8: rename it")


def print_note(text: str) -> None:
    """Say something on stdout, as it stands."""
    Console(soft_wrap=True, highlight=False, emoji=False).print(escape(printable(text)))


def quieten_libraries() -> None:
    """Hide loading bars and hints meant for authors of models, not for users of this project."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in Latin-1 has no arrows and bars
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", f".*{message}.*")
