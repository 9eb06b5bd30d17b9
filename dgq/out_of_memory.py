"""Recognizing that memory ran out, for which libraries have no common exception."""

import re

import torch

from dgq.errors import first_line

MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|ALLOC_FAILED"
    r"|^could not create a primitive$|^could not create a memory object$|^can't start new thread$",
    re.IGNORECASE,
)
"""Of torch's allocators, CUDA's libraries, oneDNN, and Python's threads."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out, of the host or of a device."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or bool(MEMORY.search(first_line(error)))


def in_words(error: Exception) -> str:
    """What ran out, in short: ``out of memory (CUDA out of memory)``."""
    reason = first_line(error).partition(". ")[0]
    return f"out of memory ({reason:.200})"
