"""How much memory of the host is free for this process."""

import os
import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")


def free_host_bytes(meminfo: Path = MEMINFO, container: Path = CONTAINER) -> int:
    """Bytes available on the host, or those left to this container if they are fewer.

    If the system does not tell how much is available, all of its memory counts.

    Args:
        meminfo: Linux's file of memory figures.
        container: folder with the limits of a control group.
    """
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE)
        free = int(found[1]) * 2**10 if found else _all_memory()
    except OSError:
        free = _all_memory()
    try:
        limit = (container / "memory.max").read_text().strip()
        used = int((container / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, max(0, int(limit) - used)) if limit.isdecimal() else free


def _all_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
