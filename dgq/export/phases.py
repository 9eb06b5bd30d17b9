"""Progress of an export: named parts that take a while."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Phase = Callable[[str], AbstractContextManager[None]]
"""Context around a part of the work, given its name."""


@contextmanager
def silent(_name: str) -> Iterator[None]:
    """A phase that reports nothing."""
    yield
