"""Hashes of the prompts of a calibration, by which an evaluation recognizes them.

A model notes hashes rather than prompts: they take 2 kB, and whoever publishes a model does not
publish prompts with it.
"""

import hashlib
from collections.abc import Iterable

LENGTH = 16
"""Hexadecimal digits of a hash, 64 bits: too many for two prompts to share them by chance."""


def prompt_hashes(prompts: Iterable[str]) -> tuple[str, ...]:
    """Hashes of the distinct prompts, sorted."""
    return tuple(sorted(set(map(prompt_hash, prompts))))


def prompt_hash(prompt: str) -> str:
    """The first digits of the SHA-256 of a prompt; runs of white space count as one space."""
    text = " ".join(prompt.split())
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:LENGTH]
