"""How much memory of the host is free for this process."""

from pathlib import Path

import psutil

CONTAINER = Path("/sys/fs/cgroup")


def free_host_bytes(container: Path = CONTAINER) -> int:
    """Bytes available on the host, or those left to this container if they are fewer.

    Args:
        container: folder with the limits of a control group.
    """
    free = int(psutil.virtual_memory().available)
    try:
        limit = (container / "memory.max").read_text().strip()
        used = int((container / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, max(0, int(limit) - used)) if limit.isdecimal() else free
