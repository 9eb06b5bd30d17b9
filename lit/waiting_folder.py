"""Where the samples of a run wait on disk: a folder for each process, removed at the end."""

import glob
import hashlib
import shutil
from pathlib import Path


def waiting_folder(run: Path, rank: int, parent: Path | None) -> Path:
    """The folder of one process; no other run has the same.

    Args:
        run: the run's folder.
        rank: of the process.
        parent: where the user wants it; in the run's folder by default.
    """
    run = run.resolve()
    digest = hashlib.sha256(str(run).encode()).hexdigest()[:8]
    return (parent or run) / f"waiting-{run.name}-{digest}-{rank}"


def clear_waiting_folders(first: Path) -> None:
    """Remove what a killed run left behind, whatever its number of processes.

    Args:
        first: the folder of the first process.
    """
    pattern = glob.escape(first.name.removesuffix("0")) + "*"
    for folder in first.parent.glob(pattern):
        shutil.rmtree(folder, ignore_errors=True)  # a dying process may still write there
