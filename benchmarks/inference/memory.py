"""Memory of this process and of the machine."""

import psutil

GIB = 2**30


def resident_gib() -> float:
    """Memory that this process holds now."""
    return float(psutil.Process().memory_info().rss) / GIB


def total_gib() -> float:
    """Memory of the machine."""
    return float(psutil.virtual_memory().total) / GIB
