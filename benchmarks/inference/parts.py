"""Parts that rows need: made once, and kept in a cache folder with the settings they depend on."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from dgq.storage.files import write_json

MADE = "made.json"
"""File that is written last: a folder without it is unfinished."""


@dataclass(frozen=True)
class Part:
    """A folder in the cache.

    Args:
        folder: folder of its files.
        settings: everything that they depend on, as plain values for JSON.
        make: writes the files into the folder.
    """

    folder: Path
    settings: Mapping[str, Any]
    make: Callable[[Path], None]

    @property
    def is_ready(self) -> bool:
        """Whether it has been made with these settings."""
        try:
            made = json.loads((self.folder / MADE).read_text())
        except (OSError, ValueError):
            return False
        return bool(made == json.loads(json.dumps(self.settings)))

    def ensure(self) -> None:
        """Make it, unless it exists or another process has just made it."""
        if self.is_ready:
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):
            if not self.is_ready:
                self._make()

    def _make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.make(self.folder)
        write_json(self.folder / MADE, self.settings)
