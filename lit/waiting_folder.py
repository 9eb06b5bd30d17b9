"""The folders on disk where a run's samples wait: one per process, removed at the end."""

import glob
import hashlib
import shutil
from pathlib import Path


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


def clear_waiting_folders(first: Path) -> None:
    """Remove the folders that a killed run left behind, for any number of processes.

    Args:
        first: the folder of the first process.
    """
    pattern = glob.escape(first.name.removesuffix("0")) + "*"
    for folder in first.parent.glob(pattern):
        shutil.rmtree(folder, ignore_errors=True)  # a dying process may still write there
