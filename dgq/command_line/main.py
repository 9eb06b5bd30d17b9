"""Choose a subcommand, run it, and report errors in one line."""

import argparse
from collections.abc import Sequence
from typing import Protocol

from dgq.command_line import card, export, inspect
from dgq.command_line.ending import exit_code


class Subcommand(Protocol):
    """A module of this package."""

    NAME: str
    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the subcommand's options to a parser."""

    def run(self, arguments: argparse.Namespace) -> None:
        """Run the subcommand.

        Raises:
            DGQError: for what the user can correct.
        """


SUBCOMMANDS: tuple[Subcommand, ...] = (card, export, inspect)


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
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
    """Run the command; returns the exit code: 0, or 2 after one line about bad input."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: arguments.run(arguments), "nothing was written")
