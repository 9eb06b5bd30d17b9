"""Lists in sentences."""

from collections.abc import Sequence


def listed(names: Sequence[str]) -> str:
    """Join names, as in "FID, KID and CLIP score"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
