"""The command line of ``generate.py``: options from the settings' fields."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from dgq.command_line.console import check_arguments
from dgq.command_line.ending import exit_code
from evaluation.command_line import normalise
from evaluation.one_prompt.generate import generate
from evaluation.one_prompt.settings import PictureSettings

FLAGS = ("--compare", "--overwrite")
"""Options that act as flags, without a value."""


def main(argv: Sequence[str]) -> int:
    """Draw; returns the exit code: 0, or 2 after one line about bad input."""

    def work() -> None:
        check_arguments(argv, may_be_empty=("--negative",))
        generate(parse_settings(argv), Console(emoji=False))

    return exit_code(work, "nothing was written")


def parse_settings(argv: Sequence[str]) -> PictureSettings:
    """Parse the command line into validated settings.

    Raises:
        DGQError: for a value outside its domain.
        ArgumentError: for arguments that cannot be parsed.
    """
    parsed = make_parser().parse_args(normalise(argv, FLAGS))
    return PictureSettings(**vars(parsed))


def make_parser() -> ArgumentParser:
    """The parser; its destinations are the fields of the settings."""
    parser = ArgumentParser(
        prog="generate.py",
        description="Draw a picture of a prompt, with a quantized model or in full precision.",
        exit_on_error=False,
    )
    parser.add_argument("prompt", type=str, help="what to draw")
    parser.add_class_arguments(PictureSettings, None, skip={"prompt"})
    return parser
