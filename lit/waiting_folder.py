"""The folders on disk where a run's samples wait: one per process, removed at the end."""

import glob
import hashlib
import re
import shutil
from pathlib import Path

NAME = re.compile(r"waiting-.*-[0-9a-f]{8}-\d+", re.DOTALL)
"""Of the folder of one process: of which run, its place then, and the rank."""


def waiting_folder(run: Path, rank: int, parent: Path | None) -> Path:
    """The folder of one process, different from that of any other run.

    Args:
        run: the run's folder.
        rank: rank of the process.
        parent: folder that the user chose; the run's folder by default.
    """
    run = run.resolve()
    digest = hashlib.sha256(str(run).encode()).hexdigest()[:8]
    return (parent or run) / f"waiting-{run.name}-{digest}-{rank}"


def clear_waiting_folders(run: Path, parent: Path | None) -> None:
    """Remove the folders that a killed run left behind, for any number of processes.

    Args:
        run: the run's folder. All in it are its own, also those from before it was renamed.
        parent: folder that the user chose, which may hold those of other runs.
    """
    left = [path for path in run.glob("waiting-*") if NAME.fullmatch(path.name)]
    if parent is not None:
        own = waiting_folder(run, 0, parent).name.removesuffix("0")
        left += parent.glob(glob.escape(own) + "*")
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)  # a dying process may still write there
