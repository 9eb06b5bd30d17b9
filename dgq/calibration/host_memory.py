"""How much memory of the host is free for this process."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

GROUPS = Path("/sys/fs/cgroup")
"""Where control groups of version 2 are, and in ``memory`` those of version 1."""

OWN = Path("/proc/self/cgroup")
"""The control groups of this process, a line each: ``number:controllers:path``."""

LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Files with a group's limit and what it uses, of versions 2 and 1."""

RECLAIMED = ("total_inactive_file", "inactive_file")
"""Names of the cached content of files that the system drops first; version 1 has both."""


def free_host_bytes(groups: Path = GROUPS, own: Path = OWN) -> int:
    """Bytes available on the host, or those left to a container or job if they are fewer.

    Args:
        groups: folder of the control groups.
        own: file with the groups of this process.
    """
    free = int(psutil.virtual_memory().available)
    left = [_left(group) for group in _folders(groups, own)]
    return min([free, *(n_bytes for n_bytes in left if n_bytes is not None)])


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    """The groups of this process and those around them; a container sees its own as the root."""
    yield from (groups, groups / "memory")
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            inside = PurePosixPath(path.lstrip("/"))
            for part in (inside, *inside.parents):
                yield groups / controllers / part


def _left(group: Path) -> int | None:
    """Bytes that a group may still take; None without a limit."""
    for limit_file, used_file in LIMITS:
        try:
            limit = (group / limit_file).read_text().strip()
            used = int((group / used_file).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdecimal():
            return max(0, int(limit) - max(0, used - _reclaimable(group)))
    return None


def _reclaimable(group: Path) -> int:
    """Bytes of cached files, which count as used: all weights that were read, for example."""
    try:
        rows = [line.split() for line in (group / "memory.stat").read_text().splitlines()]
        found = {name: int(value) for name, value in rows}
    except (OSError, ValueError):
        return 0
    return next((found[name] for name in RECLAIMED if name in found), 0)
