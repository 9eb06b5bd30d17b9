"""Choose a subcommand, run it, and say what is wrong in one line."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, Protocol

from dgq.command_line import card, export, inspect
from dgq.command_line.console import print_error, quieten_libraries
from dgq.errors import DGQError


class Subcommand(Protocol):
    """A module of this package."""

    NAME: str
    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Tell a parser its options."""

    def run(self, arguments: argparse.Namespace) -> None:
        """Do it.

        Raises:
            DGQError: in one line, what the user can mend.
        """


SUBCOMMANDS: tuple[Subcommand, ...] = (card, export, inspect)


def parser() -> argparse.ArgumentParser:
    """Of all subcommands."""
    made = argparse.ArgumentParser(
        prog="python -m dgq",
        description="Work with quantized models: folders as `python train.py fit` writes them.",
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in SUBCOMMANDS:
        one = commands.add_parser(module.NAME, help=module.SUMMARY, description=module.SUMMARY)
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    return made


def main(argv: Sequence[str]) -> int:
    """The exit code: 0, or 2 after one line about bad input."""
    arguments = parser().parse_args(argv)
    quieten_libraries()
    signal.signal(signal.SIGTERM, _end)
    try:
        arguments.run(arguments)
    except (DGQError, OSError) as error:
        print_error(error)
        return 2
    return 0


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    """Let what is half written be removed."""
    sys.exit(143)
