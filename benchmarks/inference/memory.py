"""Memory of this process, as Linux counts it."""

import os
import resource
from contextlib import suppress
from pathlib import Path

GIB = 2**30
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def resident_gib() -> float:
    """Memory that this process holds now; nan if unknown."""
    return _status("VmRSS", float("nan"))


def peak_gib() -> float:
    """Peak memory of this process in GiB since ``forget_peak``, or since its start."""
    return _status("VmHWM", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB)


def forget_peak() -> None:
    """Reset the peak, if the system can."""
    with suppress(OSError):
        CLEAR.write_text("5")


def total_gib() -> float:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def _status(name: str, otherwise: float) -> float:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return otherwise
    sizes = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(sizes[0]) * 1024 / GIB if sizes else otherwise
