"""What the studies' commands share: exit codes, one-line errors, and checks of options."""

import argparse
from collections.abc import Callable

from dgq.command_line.console import print_error, quieten_libraries
from dgq.errors import DGQError
from dgq.settings import check_positive


def exit_code(work: Callable[[], int | None]) -> int:
    """The exit code of a command: what the work returns, or 2 after one line about bad input."""
    quieten_libraries()
    try:
        return work() or 0
    except (DGQError, OSError) as error:
        print_error(error)
        return 2


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Raise SettingsError unless the options of these names are at least 1."""
    for name in names:
        check_positive("--" + name.replace("_", "-"), getattr(options, name))
