"""What both scripts show: one line for an error, and no noise from libraries."""

import io
import logging
import sys
import warnings
from collections.abc import Sequence

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from dgq.command_line.console import print_error, print_marked, printable
from dgq.command_line.console import print_line as print_note
from dgq.errors import DGQError

__all__ = [
    "check_arguments",
    "print_error",
    "print_note",
    "print_stop",
    "printable",
    "quieten_libraries",
]

IRRELEVANT_WARNINGS = (
    "in eval mode at the start",
    "LeafSpec",
    "args parameter",
    "is not empty",
    "returned `None`",
)


def print_stop(text: str) -> None:
    """Say on stderr, in one line, why it ended early and how to go on."""
    print_marked("[bold yellow]stopped[/]", text.removeprefix("stopped "))


def check_arguments(args: Sequence[str]) -> None:
    """Raise DGQError for an argument with bytes that are no text."""
    for arg in args:
        if printable(arg) != arg:
            raise DGQError(f"{printable(arg)} is not encoded in UTF-8: rename it")


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
