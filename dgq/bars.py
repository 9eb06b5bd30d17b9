"""Progress bars on stderr: stdout belongs to the program that uses the library."""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn

Item = TypeVar("Item")


@cache
def _console() -> Console:
    """One for all bars: rich draws those of several threads together only on the same console."""
    return Console(stderr=True)


class Bar(Progress):
    """A bar for the terminal.

    What the program prints meanwhile is moved above the bar if that is on the same screen. If
    stdout is a file, it stays out of rich's hands, which would send it to stderr.

    Args:
        columns: of the bar.
        show: whether to show anything.
    """

    def __init__(self, *columns: ProgressColumn, show: bool) -> None:
        super().__init__(
            *columns,
            console=_console(),
            redirect_stdout=_is_terminal(sys.stdout),
            disable=not show,
        )


def track(items: Iterable[Item], description: str, show: bool) -> Iterator[Item]:
    """The items, with a bar of how many were taken."""
    with Bar(*Bar.get_default_columns(), show=show) as bar:
        yield from bar.track(items, description=description)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # none, one of the program's own, or closed
        return False
