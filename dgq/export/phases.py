"""Parts of an export that take a while, for somebody to watch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Phase = Callable[[str], AbstractContextManager[None]]
"""Surrounds a part of the work, with what it does in a few words."""


@contextmanager
def silent(_name: str) -> Iterator[None]:
    """A phase that nobody watches."""
    yield
