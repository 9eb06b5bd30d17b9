"""Folders for what is made once for all tests."""

import atexit
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp


def lasting_folder() -> Path:
    """A new folder that is removed when this process ends."""
    folder = mkdtemp(prefix="dgq-tests-")
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def _remove(folder: str, owner: int) -> None:
    """A forked child ends, too, but has made nothing."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
