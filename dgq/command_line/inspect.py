"""``python -m dgq inspect``: what a quantized model holds, and how it runs here."""

import argparse
import json
import sys

from rich.console import Console

from dgq.command_line.console import add_path
from dgq.inspection.inspect import inspect_model
from dgq.inspection.table import make_table

NAME = "inspect"
SUMMARY = "Show what a quantized model holds, whether it is whole, and how it runs here."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subcommand."""
    add_path(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON, which is the default if the output is not a terminal",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print a table, or JSON.

    Raises:
        DGQError: if the model is missing, damaged, or does not belong together.
    """
    found = inspect_model(arguments.path)
    if arguments.json or not sys.stdout.isatty():
        print(json.dumps(found, indent=2))
    else:
        Console(emoji=False, highlight=False).print(make_table(found))
